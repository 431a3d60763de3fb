-- Functions, procedures, window functions and aggregates. The statement of an aggregate is put together here; the server has no function for it.
SELECT p.oid, n.nspname::text AS schema, p.proname::text AS name, pg_get_function_identity_arguments(p.oid) AS arguments,
       l.lanname::text AS language,
       p.prokind::text AS kind, -- @from 110000
       CASE WHEN p.proisagg THEN 'a' WHEN p.proiswindow THEN 'w' ELSE 'f' END AS kind, -- @before 110000
       CASE WHEN g.aggfnoid IS NULL AND l.lanname NOT IN ('c', 'internal') THEN pg_get_functiondef(p.oid)
            WHEN g.aggfnoid IS NOT NULL THEN
              'CREATE AGGREGATE ' || quote_ident(n.nspname) || '.' || quote_ident(p.proname) || '('
              || CASE WHEN pg_get_function_arguments(p.oid) = '' THEN '*' ELSE pg_get_function_arguments(p.oid) END
              || ') (SFUNC = ' || g.aggtransfn::regproc::text || ', STYPE = ' || format_type(g.aggtranstype, NULL)
              || CASE WHEN g.aggtransspace <> 0 THEN ', SSPACE = ' || g.aggtransspace ELSE '' END
              || CASE WHEN g.aggfinalfn <> 0 THEN ', FINALFUNC = ' || g.aggfinalfn::regproc::text ELSE '' END
              || CASE WHEN g.aggfinalextra THEN ', FINALFUNC_EXTRA' ELSE '' END
              || CASE WHEN g.aggcombinefn <> 0 THEN ', COMBINEFUNC = ' || g.aggcombinefn::regproc::text ELSE '' END
              || CASE WHEN g.aggserialfn <> 0 THEN ', SERIALFUNC = ' || g.aggserialfn::regproc::text ELSE '' END
              || CASE WHEN g.aggdeserialfn <> 0 THEN ', DESERIALFUNC = ' || g.aggdeserialfn::regproc::text ELSE '' END
              || CASE WHEN g.agginitval IS NOT NULL THEN ', INITCOND = ' || quote_literal(g.agginitval) ELSE '' END
              || CASE WHEN g.aggmtransfn <> 0 THEN ', MSFUNC = ' || g.aggmtransfn::regproc::text || ', MINVFUNC = ' || g.aggminvtransfn::regproc::text
                      || ', MSTYPE = ' || format_type(g.aggmtranstype, NULL) ELSE '' END
              || CASE WHEN g.aggmfinalfn <> 0 THEN ', MFINALFUNC = ' || g.aggmfinalfn::regproc::text ELSE '' END
              || CASE WHEN g.aggminitval IS NOT NULL THEN ', MINITCOND = ' || quote_literal(g.aggminitval) ELSE '' END
              || CASE WHEN g.aggsortop <> 0 THEN (SELECT ', SORTOP = OPERATOR(' || quote_ident(sn.nspname) || '.' || so.oprname || ')'
                                                   FROM pg_operator so JOIN pg_namespace sn ON sn.oid = so.oprnamespace
                                                  WHERE so.oid = g.aggsortop) ELSE '' END
              || CASE g.aggkind WHEN 'h' THEN ', HYPOTHETICAL' ELSE '' END
              || CASE p.proparallel WHEN 's' THEN ', PARALLEL = SAFE' WHEN 'r' THEN ', PARALLEL = RESTRICTED' ELSE '' END || ')'
       END AS definition,
       obj_description(p.oid, 'pg_proc') AS comment
FROM pg_proc p
JOIN pg_namespace n ON n.oid = p.pronamespace
JOIN pg_language l ON l.oid = p.prolang
LEFT JOIN pg_aggregate g ON g.aggfnoid = p.oid
WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'drover', 'drover_ddl') AND p.oid >= 16384
  AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_proc'::regclass AND e.objid = p.oid AND e.deptype IN ('e', 'i'))
ORDER BY p.oid
