-- Rewrite rules, but for those that views consist of.
SELECT r.oid, r.ev_class AS relid, n.nspname::text AS schema, c.relname::text AS relation, r.rulename::text AS name,
       pg_get_ruledef(r.oid) AS definition, r.ev_enabled::text AS enabled, obj_description(r.oid, 'pg_rewrite') AS comment
FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE r.rulename <> '_RETURN' AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'drover', 'drover_ddl')
  AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')
ORDER BY r.oid
