-- Tells schema changes of published tables in the log, in the statement's own transaction. Words in braces are filled in by watch.rs.
-- A statement never fails because of it: what goes wrong here is told instead.
CREATE FUNCTION {function}() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off SET datestyle = 'ISO, YMD' SET intervalstyle = 'postgres'
SET timezone = 'UTC' SET bytea_output = 'hex' SET extra_float_digits = 3 SET jit = off AS $drover$
#variable_conflict use_column
DECLARE
  d_ids oid[];
  d_every oid[];
  d_gone jsonb;
  d_strange jsonb;
  d_where text;
  d_why text;
  d_text text := current_query();
  d_told jsonb;
BEGIN
  GET DIAGNOSTICS d_where = PG_CONTEXT;
  IF tg_event = 'table_rewrite' THEN
    SELECT array_agg(coalesce(pg_partition_root(o.oid), o.oid)) INTO d_ids
      FROM (SELECT pg_event_trigger_table_rewrite_oid() AS oid) o;
    d_told := jsonb_build_object('rewritten', jsonb_build_object('relid', (d_ids[1])::bigint, 'reason', pg_event_trigger_table_rewrite_reason()));
  ELSIF tg_event = 'sql_drop' THEN
    SELECT jsonb_agg(jsonb_build_object('kind', o.object_type, 'oid', o.objid::bigint, 'schema', o.schema_name, 'name', o.object_name))
      INTO d_gone FROM pg_event_trigger_dropped_objects() o
     WHERE o.object_type IN ('table', 'index') AND NOT o.is_temporary;
    SELECT array_agg(o.relid) INTO d_ids FROM (
      SELECT CASE WHEN o.object_type = 'table column' THEN o.objid
                  ELSE to_regclass(quote_ident(o.address_names[1]) || '.' || quote_ident(o.address_names[2]))::oid END AS relid
        FROM pg_event_trigger_dropped_objects() o
       WHERE o.object_type IN ('table column', 'table constraint') AND NOT o.is_temporary) o
     WHERE o.relid IS NOT NULL;
  ELSE
    SELECT array_agg(coalesce(pg_partition_root(o.relid), o.relid)) INTO d_ids FROM (
      SELECT coalesce(x.indrelid, k.conrelid, o.objid) AS relid
        FROM pg_event_trigger_ddl_commands() o
        LEFT JOIN pg_index x ON o.classid = 'pg_class'::regclass AND x.indexrelid = o.objid
        LEFT JOIN pg_constraint k ON o.classid = 'pg_constraint'::regclass AND k.oid = o.objid
       WHERE o.classid IN ('pg_class'::regclass, 'pg_constraint'::regclass) AND NOT o.in_extension) o;
    -- Tables that are not published and may have got a name that a published one had.
    IF tg_tag = 'ALTER TABLE' AND d_text ~* '\y(to|schema)\y' THEN
      SELECT jsonb_agg(jsonb_build_object('schema', n.nspname, 'name', c.relname)) INTO d_strange
        FROM unnest(d_ids) i(oid) JOIN pg_class c ON c.oid = i.oid JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND NOT EXISTS (
         SELECT FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid WHERE p.pubname = {publication} AND r.prrelid = c.oid);
    END IF;
  END IF;
  SELECT array_agg(DISTINCT r.prrelid) INTO d_ids FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
   WHERE p.pubname = {publication} AND r.prrelid = ANY (d_ids);
  IF coalesce(d_ids::text, d_gone::text, d_strange::text) IS NULL OR d_ids IS NULL AND d_told IS NOT NULL THEN
    RETURN;
  END IF;
  IF d_told IS NULL THEN
    d_every := d_ids || ARRAY(SELECT t.relid::oid FROM unnest(d_ids) i(oid) CROSS JOIN LATERAL pg_partition_tree(i.oid) t);
    d_told := jsonb_build_object(
      'tag', tg_tag, 'ended', tg_event = 'ddl_command_end', 'statement', left(d_text, 2000), 'dropped', coalesce(d_gone, '[]'),
      'strange', coalesce(d_strange, '[]'),
      -- Called by no function, and without an expression that values are computed by: then the statement is all that there is.
      'plain', strpos(d_where, E'\n') = 0 AND d_text !~* '\yusing\y',
      -- Partitions that hold rows: what one that is attached brings along is in no log.
      'filled', (SELECT coalesce(jsonb_agg(DISTINCT jsonb_build_object('schema', n.nspname, 'name', c.relname)), '[]')
                   FROM unnest(d_ids) i(oid) CROSS JOIN LATERAL pg_partition_tree(i.oid) t JOIN pg_class c ON c.oid = t.relid
                   JOIN pg_namespace n ON n.oid = c.relnamespace
                  WHERE tg_tag = 'ALTER TABLE' AND t.isleaf AND t.level > 0 AND pg_relation_size(t.relid) > 0),
      'relids', (SELECT coalesce(jsonb_agg(i.oid::bigint), '[]') FROM unnest(d_ids) i(oid)),
      -- What rows from before have in columns that were added.
      'missing', (SELECT coalesce(jsonb_agg(DISTINCT jsonb_build_object('relid', i.oid::bigint, 'name', a.attname, 'value',
                      (a.attmissingval::text::text[])[1])), '[]')
                    FROM unnest(d_ids) i(oid) JOIN pg_attribute a ON a.atthasmissing AND NOT a.attisdropped
                     AND a.attrelid IN (SELECT i.oid UNION ALL SELECT t.relid FROM pg_partition_tree(i.oid) t)),
      'rows', CASE WHEN d_ids IS NULL THEN '{}' ELSE jsonb_build_object({queries}) END);
  END IF;
  PERFORM pg_logical_emit_message(true, {prefix}, convert_to(d_told::text, 'UTF8'));
  -- A message counts from where it ends, a row from where it begins: between subtransactions, as this block is one, the server may put a row right
  -- behind a message before it. So something else stands between.
  PERFORM pg_logical_emit_message(true, {pad}, '');
EXCEPTION WHEN OTHERS THEN
  GET STACKED DIAGNOSTICS d_why = MESSAGE_TEXT;
  BEGIN
    PERFORM pg_logical_emit_message(true, {prefix},
      convert_to(jsonb_build_object('failed', d_why, 'tag', tg_tag, 'statement', left(d_text, 2000))::text, 'UTF8'));
    PERFORM pg_logical_emit_message(true, {pad}, '');
  EXCEPTION WHEN OTHERS THEN
    NULL;
  END;
END $drover$;
REVOKE ALL ON FUNCTION {function}() FROM PUBLIC;
CREATE EVENT TRIGGER {changed} ON ddl_command_end
  WHEN TAG IN ('ALTER TABLE', 'CREATE INDEX', 'ALTER INDEX', 'CREATE TABLE', 'CREATE TABLE AS') EXECUTE PROCEDURE {function}();
CREATE EVENT TRIGGER {dropped} ON sql_drop EXECUTE PROCEDURE {function}();
CREATE EVENT TRIGGER {rewritten} ON table_rewrite EXECUTE PROCEDURE {function}();
ALTER EVENT TRIGGER {changed} ENABLE ALWAYS;
ALTER EVENT TRIGGER {dropped} ENABLE ALWAYS;
ALTER EVENT TRIGGER {rewritten} ENABLE ALWAYS;
