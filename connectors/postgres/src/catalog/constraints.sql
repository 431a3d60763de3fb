-- Constraints of tables. Those that partitions or children have from their parents come with the parents.
SELECT k.oid, k.conrelid AS relid, k.conname::text AS name, k.contype::text AS kind, pg_get_constraintdef(k.oid) AS definition,
       ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY u(num, ord)
              JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.num ORDER BY u.ord) AS columns,
       k.confrelid AS foreign_relid,
       ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY u(num, ord)
              JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.num ORDER BY u.ord) AS foreign_columns,
       k.condeferrable AS is_deferrable, k.convalidated AS validated, k.conislocal AS is_local,
       k.conparentid <> 0 AS is_clone, -- @from 110000
       false AS is_clone, -- @before 110000
       coalesce(x.indisvalid, true) AS valid,
       (SELECT fn.nspname::text FROM pg_class fc JOIN pg_namespace fn ON fn.oid = fc.relnamespace WHERE fc.oid = k.confrelid) AS foreign_schema,
       (SELECT fc.relname::text FROM pg_class fc WHERE fc.oid = k.confrelid) AS foreign_name,
       k.confdeltype::text AS on_delete, k.confupdtype::text AS on_update, k.confmatchtype::text AS matching,
       coalesce(cardinality(k.confdelsetcols), 0) > 0 AS sets_some, -- @from 150000
       false AS sets_some, -- @before 150000
       coalesce(x.indnullsnotdistinct, false) AS nulls_alike, -- @from 150000
       false AS nulls_alike, -- @before 150000
       obj_description(k.oid, 'pg_constraint') AS comment,
       coalesce((SELECT bool_and(a.attnotnull) FROM unnest(k.conkey) u(num)
              JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.num), false) AS all_not_null
FROM pg_constraint k
JOIN pg_class c ON c.oid = k.conrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_index x ON x.indexrelid = k.conindid AND k.contype IN ('p', 'u', 'x')
WHERE k.contype IN ('c', 'p', 'u', 'x', 'f') AND c.relkind IN ('r', 'p')
  AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'drover', 'drover_ddl')
ORDER BY k.conrelid, k.contype, k.conname
