-- Extensions but for the one that every database has.
SELECT x.oid, x.extname::text AS name, n.nspname::text AS schema, x.extversion AS version
FROM pg_extension x JOIN pg_namespace n ON n.oid = x.extnamespace
WHERE x.extname <> 'plpgsql'
ORDER BY x.oid
