SELECT current_setting('server_version_num')::int AS version, current_setting('server_version') AS text, current_database()::text AS database,
       (SELECT oid FROM pg_database WHERE datname = current_database()) AS database_oid
