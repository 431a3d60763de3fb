-- Every type that a column can have, with what it is made of: enough to tell its values and whether it is built in. Only types with a
-- number below 10000 have the same number on every server; some of those mean something on their own server or setting only.
SELECT t.oid, t.typname::text AS name, t.typtype::text AS kind, t.typcategory::text AS category, t.typelem AS element, t.typbasetype AS base,
       t.typtypmod AS base_typmod, t.typrelid AS relid,
       t.oid < 10000 AND t.typsend <> 0 AND t.typreceive <> 0
         AND t.typname NOT IN ('regproc', 'regprocedure', 'regoper', 'regoperator', 'regclass', 'regtype', 'regconfig', 'regdictionary',
                               'regnamespace', 'regrole', 'regcollation', 'money', 'aclitem', 'pg_node_tree', 'refcursor') AS portable,
       CASE WHEN t.typtype = 'e' THEN ARRAY(SELECT l.enumlabel::text FROM pg_enum l WHERE l.enumtypid = t.oid ORDER BY l.enumsortorder) END AS labels,
       t.typlen = -1 AND t.typelem <> 0 AND t.typcategory = 'A' AS is_array
FROM pg_type t
WHERE t.typtype IN ('b', 'd', 'e', 'r', 'm', 'c')
  AND (t.typtype <> 'c' OR EXISTS (SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.oid >= 16384))
