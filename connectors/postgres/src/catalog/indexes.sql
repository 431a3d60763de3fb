-- Indexes that belong to no constraint and no parent's index. Indexes of materialized views too.
SELECT x.indexrelid AS oid, x.indrelid AS relid, ic.relname::text AS name, pg_get_indexdef(x.indexrelid) AS definition,
       x.indisunique AS is_unique, x.indisvalid AS valid, x.indexprs IS NOT NULL AS has_expressions, x.indpred IS NOT NULL AS is_partial,
       ARRAY(SELECT coalesce(a.attname::text, '') FROM unnest(x.indkey::int2[]) WITH ORDINALITY u(num, ord)
              LEFT JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = u.num AND u.num > 0
             WHERE u.ord <= x.indnkeyatts -- @from 110000
              ORDER BY u.ord) AS columns,
       coalesce((SELECT bool_and(a.attnotnull) FROM unnest(x.indkey::int2[]) WITH ORDINALITY u(num, ord)
              JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = u.num
             WHERE u.ord <= x.indnkeyatts -- @from 110000
             ), false) AS all_not_null,
       (SELECT am.amname::text FROM pg_am am WHERE am.oid = ic.relam) AS method,
       ARRAY(SELECT o & 1 = 1 FROM unnest(x.indoption::int2[]) WITH ORDINALITY u(o, ord) ORDER BY u.ord) AS descending,
       x.indnullsnotdistinct AS nulls_alike, -- @from 150000
       false AS nulls_alike, -- @before 150000
       x.indisclustered AS clustered,
       obj_description(x.indexrelid, 'pg_class') AS comment
FROM pg_index x
JOIN pg_class ic ON ic.oid = x.indexrelid
JOIN pg_class c ON c.oid = x.indrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'm')
  AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'drover', 'drover_ddl')
  AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = x.indexrelid AND k.contype IN ('p', 'u', 'x'))
  AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = x.indexrelid)
ORDER BY x.indrelid, ic.relname
