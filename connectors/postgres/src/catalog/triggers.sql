-- Triggers of tables and views that a user made.
SELECT g.oid, g.tgrelid AS relid, g.tgname::text AS name, pg_get_triggerdef(g.oid) AS definition, g.tgenabled::text AS enabled,
       obj_description(g.oid, 'pg_trigger') AS comment
FROM pg_trigger g
JOIN pg_class c ON c.oid = g.tgrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE NOT g.tgisinternal
  AND g.tgparentid = 0 -- @from 130000
  AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'drover', 'drover_ddl')
ORDER BY g.tgrelid, g.tgname
