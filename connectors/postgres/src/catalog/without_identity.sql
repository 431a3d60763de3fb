-- Tables of $1 (schemas), $2 (names), $3 (has a filter), $4 (numbers, which go before names; zero: not known), partitions one by one, whose updates and deletes would be refused
-- once they are published. A root counts as well: the log sends old rows of its partitions as the root's identity says.
-- Those are: no primary key that is checked at once, no usable identity index, not FULL; filtered ones need FULL.
with recursive wanted as (
    select c.oid, c.relkind, w.filtered, true as top
    from unnest($1::text[], $2::text[], $3::bool[], $4::oid[]) as w(schema, name, filtered, number)
    join pg_class c on c.oid = coalesce(nullif(w.number, 0::oid), (
        select k.oid from pg_class k join pg_namespace n on n.oid = k.relnamespace where n.nspname = w.schema and k.relname = w.name))
  union all
    select c.oid, c.relkind, w.filtered, false
    from wanted w
    join pg_inherits i on i.inhparent = w.oid
    join pg_class c on c.oid = i.inhrelid
    where w.relkind = 'p'
)
select n.nspname::text, c.relname::text, c.relreplident::text, c.oid
from wanted w
join pg_class c on c.oid = w.oid
join pg_namespace n on n.oid = c.relnamespace
where (w.relkind = 'r' or w.relkind = 'p' and w.top)
  and c.relreplident <> 'f'
  and (w.filtered
    or c.relreplident = 'n'
    or c.relreplident = 'd' and not exists (
        select from pg_index x where x.indrelid = c.oid and x.indisprimary and x.indimmediate and x.indisvalid)
    or c.relreplident = 'i' and not exists (
        select from pg_index x where x.indrelid = c.oid and x.indisreplident and x.indisvalid))
order by 1, 2
