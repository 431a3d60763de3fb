-- What needs what, lifted from parts (defaults, constraints, rules, row types, arrays, extension members) to the objects that drover creates.
-- `needs_key` is set where a view needs a primary key (GROUP BY it), `column_name` where one column is meant.
WITH d AS (
  SELECT classid, objid, refclassid, refobjid, refobjsubid, deptype FROM pg_depend
  WHERE deptype IN ('n', 'a', 'i') AND refobjid >= 16384 AND objid >= 16384
), lifted AS (
  SELECT CASE WHEN d.classid = 'pg_rewrite'::regclass OR d.classid = 'pg_attrdef'::regclass THEN 'pg_class'::regclass
              WHEN d.classid = 'pg_constraint'::regclass AND k.conrelid <> 0 THEN 'pg_class'::regclass
              WHEN d.classid = 'pg_constraint'::regclass THEN 'pg_type'::regclass
              WHEN d.classid = 'pg_class'::regclass AND oc.relkind = 'c' THEN 'pg_type'::regclass
              ELSE d.classid::regclass END AS class,
         CASE WHEN d.classid = 'pg_rewrite'::regclass THEN w.ev_class
              WHEN d.classid = 'pg_attrdef'::regclass THEN f.adrelid
              WHEN d.classid = 'pg_constraint'::regclass AND k.conrelid <> 0 THEN k.conrelid
              WHEN d.classid = 'pg_constraint'::regclass THEN k.contypid
              WHEN d.classid = 'pg_class'::regclass AND oc.relkind = 'c' THEN oc.reltype
              ELSE d.objid END AS oid,
         w.rulename <> '_RETURN' AS by_rule, k.contype::text AS by_constraint, oc.relkind::text AS by_kind,
         d.refclassid, d.refobjid, d.refobjsubid, d.deptype
  FROM d
  LEFT JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
  LEFT JOIN pg_attrdef f ON d.classid = 'pg_attrdef'::regclass AND f.oid = d.objid
  LEFT JOIN pg_constraint k ON d.classid = 'pg_constraint'::regclass AND k.oid = d.objid
  LEFT JOIN pg_class oc ON d.classid = 'pg_class'::regclass AND oc.oid = d.objid
  WHERE d.classid IN ('pg_class'::regclass, 'pg_type'::regclass, 'pg_proc'::regclass, 'pg_operator'::regclass, 'pg_rewrite'::regclass,
                      'pg_attrdef'::regclass, 'pg_constraint'::regclass)
), resolved AS (
  SELECT l.class, l.oid, l.deptype, l.by_constraint,
         CASE WHEN x.refobjid IS NOT NULL THEN 'pg_extension'::regclass
              WHEN l.refclassid = 'pg_type'::regclass AND coalesce(et.typrelid, t.typrelid) <> 0 AND tc.relkind <> 'c' THEN 'pg_class'::regclass
              WHEN l.refclassid = 'pg_constraint'::regclass THEN 'pg_class'::regclass
              ELSE l.refclassid::regclass END AS ref_class,
         CASE WHEN x.refobjid IS NOT NULL THEN x.refobjid
              WHEN l.refclassid = 'pg_type'::regclass AND coalesce(et.typrelid, t.typrelid) <> 0 AND tc.relkind <> 'c' THEN coalesce(et.typrelid, t.typrelid)
              WHEN l.refclassid = 'pg_type'::regclass THEN coalesce(et.oid, t.oid)
              WHEN l.refclassid = 'pg_constraint'::regclass THEN k.conrelid
              ELSE l.refobjid END AS ref_oid,
         l.refclassid = 'pg_constraint'::regclass AS needs_key,
         CASE WHEN l.refclassid = 'pg_class'::regclass AND l.refobjsubid > 0 THEN
              (SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = l.refobjid AND a.attnum = l.refobjsubid) END AS column_name
  FROM lifted l
  LEFT JOIN pg_type t ON l.refclassid = 'pg_type'::regclass AND t.oid = l.refobjid
  LEFT JOIN pg_type et ON t.typcategory = 'A' AND et.oid = t.typelem
  LEFT JOIN pg_class tc ON tc.oid = coalesce(et.typrelid, t.typrelid) AND coalesce(et.typrelid, t.typrelid) <> 0
  LEFT JOIN pg_constraint k ON l.refclassid = 'pg_constraint'::regclass AND k.oid = l.refobjid
  LEFT JOIN pg_depend x ON x.deptype = 'e' AND x.classid = l.refclassid AND x.objid = coalesce(et.oid, l.refobjid)
  WHERE coalesce(l.by_constraint, '') <> 'f' AND NOT coalesce(l.by_rule, false) AND coalesce(l.by_kind, '') <> 'i'
)
SELECT DISTINCT class::oid AS class, oid, ref_class::oid AS ref_class, ref_oid, needs_key, column_name
FROM resolved
WHERE (class, oid) IS DISTINCT FROM (ref_class, ref_oid) AND ref_oid IS NOT NULL AND oid IS NOT NULL
  AND ref_class IN ('pg_class'::regclass, 'pg_type'::regclass, 'pg_proc'::regclass, 'pg_operator'::regclass, 'pg_extension'::regclass)
