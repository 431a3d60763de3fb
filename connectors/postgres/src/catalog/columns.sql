-- Columns of tables and composite types, in order. Types are resolved apart (types_used.sql).
SELECT a.attrelid AS relid, a.attname::text AS name, a.attnum AS num, a.atttypid AS type, a.atttypmod AS typmod,
       format_type(a.atttypid, a.atttypmod) AS type_text, a.attnotnull AS not_null,
       pg_get_expr(d.adbin, d.adrelid) AS expression,
       a.attidentity::text AS identity,
       a.attgenerated::text AS generated, -- @from 120000
       ''::text AS generated, -- @before 120000
       CASE WHEN a.attcollation <> t.typcollation AND a.attcollation <> 0
            THEN (SELECT quote_ident(cn.nspname) || '.' || quote_ident(co.collname)
                    FROM pg_collation co JOIN pg_namespace cn ON cn.oid = co.collnamespace WHERE co.oid = a.attcollation) END AS collation,
       a.attislocal AS is_local,
       CASE WHEN a.attstorage <> t.typstorage THEN a.attstorage::text END AS storage,
       a.attcompression::text AS compression, -- @from 140000
       ''::text AS compression, -- @before 140000
       nullif(a.attstattarget, -1)::int AS statistics,
       col_description(a.attrelid, a.attnum) AS comment
FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE c.relkind IN ('r', 'p', 'c') AND a.attnum > 0 AND NOT a.attisdropped AND c.relpersistence <> 't'
  AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'drover', 'drover_ddl')
ORDER BY a.attrelid, a.attnum
