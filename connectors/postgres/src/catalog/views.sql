-- Views and materialized views.
SELECT c.oid, n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS kind, pg_get_viewdef(c.oid) AS definition,
       c.reloptions AS reloptions, c.relispopulated AS populated, obj_description(c.oid, 'pg_class') AS comment
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('v', 'm') AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'drover', 'drover_ddl') AND c.relpersistence <> 't'
  AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')
ORDER BY c.oid
