-- The physical identity of tables: files, columns and, for partitioned ones, all partitions. Anything that rewrites a table, empties it or
-- changes a column changes it. Partitioned ones are told by the word before it: they have no rows of their own, so ONLY would read none. pg_relation_filenode looks at the catalogue as it is now.
WITH RECURSIVE tree(root, oid) AS (
  SELECT c.oid, c.oid FROM pg_class c WHERE c.oid = ANY ($1)
  UNION ALL
  SELECT t.root, i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid JOIN pg_class k ON k.oid = i.inhrelid AND k.relispartition
)
SELECT t.root, CASE (SELECT k.relkind FROM pg_class k WHERE k.oid = t.root) WHEN 'p' THEN 'partitioned ' ELSE '' END || md5(string_agg(t.oid::text || '=' || coalesce(pg_relation_filenode(t.oid), 0)::text || '(' || coalesce((
         SELECT string_agg(a.attnum::text || ' ' || a.attname || ' ' || a.atttypid::text || ' ' || a.atttypmod::text, ',' ORDER BY a.attnum)
           FROM pg_attribute a WHERE a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped), '') || ')', ';' ORDER BY t.oid)) AS physical
FROM tree t
GROUP BY t.root
