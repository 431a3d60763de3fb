-- Enumerations, domains, composite types, ranges: with the statement that makes each.
SELECT t.oid, n.nspname::text AS schema, t.typname::text AS name, t.typtype::text AS kind, t.typrelid AS relid,
       CASE t.typtype
         WHEN 'e' THEN 'AS ENUM (' || coalesce((SELECT string_agg(quote_literal(l.enumlabel), ', ' ORDER BY l.enumsortorder)
                                         FROM pg_enum l WHERE l.enumtypid = t.oid), '') || ')'
         WHEN 'c' THEN 'AS (' || coalesce((SELECT string_agg(quote_ident(a.attname) || ' ' || format_type(a.atttypid, a.atttypmod)
                                    || CASE WHEN a.attcollation <> at.typcollation AND a.attcollation <> 0
                                            THEN (SELECT ' COLLATE ' || quote_ident(cn.nspname) || '.' || quote_ident(co.collname)
                                                    FROM pg_collation co JOIN pg_namespace cn ON cn.oid = co.collnamespace
                                                   WHERE co.oid = a.attcollation) ELSE '' END, ', ' ORDER BY a.attnum)
                                   FROM pg_attribute a JOIN pg_type at ON at.oid = a.atttypid
                                  WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped), '') || ')'
         WHEN 'd' THEN 'AS ' || format_type(t.typbasetype, t.typtypmod)
                       || CASE WHEN t.typcollation <> bt.typcollation AND t.typcollation <> 0
                               THEN (SELECT ' COLLATE ' || quote_ident(cn.nspname) || '.' || quote_ident(co.collname)
                                       FROM pg_collation co JOIN pg_namespace cn ON cn.oid = co.collnamespace
                                      WHERE co.oid = t.typcollation) ELSE '' END
                       || coalesce(' DEFAULT ' || pg_get_expr(t.typdefaultbin, 0), '')
                       || CASE WHEN t.typnotnull THEN ' NOT NULL' ELSE '' END
                       || coalesce((SELECT string_agg(' CONSTRAINT ' || quote_ident(k.conname) || ' ' || pg_get_constraintdef(k.oid), '' ORDER BY k.conname)
                                      FROM pg_constraint k WHERE k.contypid = t.oid AND k.contype = 'c'), '')
         WHEN 'r' THEN 'AS RANGE (SUBTYPE = ' || format_type(r.rngsubtype, NULL)
                       || CASE WHEN NOT oc.opcdefault THEN (SELECT ', SUBTYPE_OPCLASS = ' || quote_ident(on_.nspname) || '.' || quote_ident(oc.opcname)
                                                            FROM pg_namespace on_ WHERE on_.oid = oc.opcnamespace) ELSE '' END
                       || CASE WHEN r.rngcollation <> 0 AND r.rngcollation <> bt2.typcollation
                               THEN (SELECT ', COLLATION = ' || quote_ident(cn.nspname) || '.' || quote_ident(co.collname)
                                       FROM pg_collation co JOIN pg_namespace cn ON cn.oid = co.collnamespace
                                      WHERE co.oid = r.rngcollation) ELSE '' END
                       || CASE WHEN r.rngsubdiff <> 0 THEN ', SUBTYPE_DIFF = ' || r.rngsubdiff::regproc::text ELSE '' END
                       || (SELECT ', MULTIRANGE_TYPE_NAME = ' || quote_ident(mn.nspname) || '.' || quote_ident(mt.typname) -- @from 140000
                             FROM pg_type mt JOIN pg_namespace mn ON mn.oid = mt.typnamespace WHERE mt.oid = r.rngmultitypid) -- @from 140000
                       || ')'
         ELSE NULL
       END AS definition,
       obj_description(t.oid, 'pg_type') AS comment
FROM pg_type t
JOIN pg_namespace n ON n.oid = t.typnamespace
LEFT JOIN pg_type bt ON bt.oid = t.typbasetype
LEFT JOIN pg_range r ON r.rngtypid = t.oid
LEFT JOIN pg_type bt2 ON bt2.oid = r.rngsubtype
LEFT JOIN pg_opclass oc ON oc.oid = r.rngsubopc
LEFT JOIN pg_class tc ON tc.oid = t.typrelid
WHERE (t.typtype IN ('e', 'd', 'r') OR (t.typtype = 'c' AND tc.relkind = 'c') OR (t.typtype = 'b' AND t.typcategory <> 'A' AND t.typelem = 0))
  AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'drover', 'drover_ddl')
  AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_type'::regclass AND e.objid = t.oid AND e.deptype = 'e')
  AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = t.typrelid AND e.deptype = 'e')
ORDER BY t.oid
