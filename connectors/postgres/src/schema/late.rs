//! What comes after the rows: keys and indexes of one table, then late views, foreign keys and triggers of all.

use super::rewrite;
use super::work::{Statement, Work, enabled};
use crate::catalog::list;
use crate::sql::{ident, literal, qualified};
use drover_model::TablePlan;
use drover_model::schema::{Object, Phase, Table, TableName};
use std::collections::BTreeSet;

impl Work<'_> {
    /// Keys, indexes and row identity of one table.
    pub fn keys(&mut self, plan: &TablePlan, table: &Table) -> Vec<Statement> {
        let mut out = Vec::new();
        let own = qualified(&plan.destination.schema, &plan.destination.name);
        if !self.same_kind {
            return self.foreign_keys(plan, table);
        }
        for kind in ["primary key", "unique", "exclude", "index"] {
            for part in table.parts.iter().filter(|p| p.kind == kind) {
                let on = self.on(part, &plan.destination);
                let at = qualified(&on.schema, &on.name);
                let definition = if kind == "index" {
                    let unique = if part.definition.starts_with("CREATE UNIQUE") { "UNIQUE " } else { "" };
                    rewrite::index_tail(&part.definition)
                        .ok_or_else(|| "its definition is not understood".to_owned())
                        .and_then(|tail| self.expression(&plan.source, tail))
                        .map(|tail| format!("CREATE {unique}INDEX {} ON {at} {tail}", ident(&part.name)))
                } else {
                    self.expression(&plan.source, &part.definition)
                        .map(|d| format!("ALTER TABLE {at} ADD CONSTRAINT {} {d}", ident(&part.name)))
                };
                match definition {
                    Ok(mut sql) => {
                        if part.options.contains_key("clustered") {
                            sql.push_str(&format!(";\nALTER TABLE {at} CLUSTER ON {}", ident(&part.name)));
                        }
                        if let Some(comment) = part.options.get("comment") {
                            let what = match kind {
                                "index" => format!("INDEX {}", qualified(&on.schema, &part.name)),
                                _ => format!("CONSTRAINT {} ON {at}", ident(&part.name)),
                            };
                            sql.push_str(&format!(";\nCOMMENT ON {what} IS {}", literal(comment)));
                        }
                        let name = TableName::new(on.schema.clone(), part.name.clone());
                        out.push(Statement { kind: kind.into(), name, on: Some(on), sql, then: None });
                    }
                    Err(reason) => self.leave_out(kind, &plan.source, &part.name, reason),
                }
            }
        }
        let identity = match table.options.get("replica_identity").map(String::as_str) {
            Some("f") => Some("FULL".to_owned()),
            Some("n") => Some("NOTHING".to_owned()),
            Some("i") => table.options.get("replica_index").map(|i| format!("USING INDEX {}", ident(i))),
            _ => None,
        };
        if let Some(identity) = identity {
            let sql = format!("ALTER TABLE {own} REPLICA IDENTITY {identity}");
            out.push(Statement {
                kind: "replica identity".into(),
                name: plan.destination.clone(),
                on: Some(plan.destination.clone()),
                sql,
                then: None,
            });
        }
        out
    }

    /// The relation at the destination that a part is on: the table or one of its partitions.
    fn on(&self, part: &Object, table: &TableName) -> TableName {
        match (part.options.get("on_schema"), part.options.get("on_name")) {
            (Some(schema), Some(name)) => self.target(schema, name),
            _ => table.clone(),
        }
    }

    /// Late views, then foreign keys of all tables, then triggers of all tables.
    pub fn last(&mut self) -> Vec<Statement> {
        let late = |work: &Self, parts: bool| -> Vec<Statement> {
            let is_part = |o: &Object| o.kind == "index" || o.kind == "trigger";
            let wanted = work.objects.iter().filter(|o| o.phase == Phase::Final && is_part(o) == parts);
            wanted.map(|o| work.object(o)).collect()
        };
        let mut out = late(self, false);
        if !self.same_kind {
            return self
                .tables
                .clone()
                .into_iter()
                .flat_map(|(plan, table)| self.foreign_references(plan, table))
                .collect();
        }
        for (plan, table) in self.tables.clone() {
            for part in table.parts.iter().filter(|p| p.kind == "foreign key") {
                match self.foreign_key(plan, table, part) {
                    Ok(statement) => out.push(statement),
                    Err(reason) => self.leave_out("foreign key", &plan.source, &part.name, reason),
                }
            }
        }
        out.extend(late(self, true));
        // Materialized views get their rows now.
        for o in self.objects.iter().filter(|o| o.options.contains_key("populated")) {
            let name = self.target(&o.schema, &o.name);
            let sql = format!("REFRESH MATERIALIZED VIEW {}", qualified(&name.schema, &name.name));
            out.push(Statement { kind: "refresh".into(), name, on: None, sql, then: None });
        }
        for (plan, table) in self.tables.clone() {
            let changed = self
                .renamed
                .get(&plan.source)
                .map(|r| r.iter().filter(|(a, b)| a != b).map(|(a, _)| a.clone()).collect::<BTreeSet<_>>());
            for part in table.parts.iter().filter(|p| p.kind == "trigger") {
                let gone = self.dropped.get(&plan.source);
                let trouble = [changed.as_ref(), gone]
                    .into_iter()
                    .flatten()
                    .find_map(|names| rewrite::mentions(&part.definition, names));
                if let Some(column) = trouble {
                    self.leave_out(
                        "trigger",
                        &plan.source,
                        &part.name,
                        format!("it names column {column}, which is renamed or left out"),
                    );
                    continue;
                }
                let on = self.on(part, &plan.destination);
                let mut sql = self.renames.apply(&part.definition, false);
                sql.push_str(&enabled("trigger", &part.name, &on, part.options.get("enabled")));
                if let Some(comment) = part.options.get("comment") {
                    let what = format!("TRIGGER {} ON {}", ident(&part.name), qualified(&on.schema, &on.name));
                    sql.push_str(&format!(";\nCOMMENT ON {what} IS {}", literal(comment)));
                }
                let name = TableName::new(on.schema.clone(), part.name.clone());
                out.push(Statement { kind: "trigger".into(), name, on: Some(on), sql, then: None });
            }
        }
        out
    }

    pub(super) fn foreign_key(&self, plan: &TablePlan, table: &Table, part: &Object) -> Result<Statement, String> {
        let option = |name: &str| part.options.get(name).cloned().unwrap_or_default();
        let to = TableName::new(option("foreign_schema"), option("foreign_name"));
        let is_partition =
            |t: &Table| t.parts.iter().any(|p| p.kind == "partition" && p.schema == to.schema && p.name == to.name);
        let Some((parent, _)) = self.tables.iter().find(|(p, t)| p.source == to || is_partition(t)) else {
            return Err(format!("it references {to}, which is not selected"));
        };
        let map = |plan: &TablePlan, columns: &[String]| -> Result<String, String> {
            let mapped = columns.iter().map(|c| {
                let found = plan.columns.iter().find(|p| &p.source == c);
                found.map(|p| ident(&p.destination)).ok_or_else(|| format!("column {}.{c} is left out", plan.source))
            });
            Ok(mapped.collect::<Result<Vec<_>, _>>()?.join(", "))
        };
        let tail = rewrite::foreign_key_tail(&part.definition).ok_or("its definition is not understood")?;
        let tail = self.expression(&plan.source, tail)?;
        let on = self.on(part, &plan.destination);
        let target = self.target(&to.schema, &to.name);
        let (at, references) = (qualified(&on.schema, &on.name), qualified(&target.schema, &target.name));
        let mut sql = format!(
            "ALTER TABLE {at} ADD CONSTRAINT {} FOREIGN KEY ({}) REFERENCES {references} ({}) {tail}",
            ident(&part.name),
            map(plan, &list(&part.options, "columns"))?,
            map(parent, &list(&part.options, "foreign_columns"))?,
        );
        let mut then = None;
        // Partitioned tables cannot have keys that are not valid (before version 18).
        if !table.options.contains_key("partition_by") {
            sql.push_str(" NOT VALID");
            if !part.options.contains_key("not_valid") {
                then = Some(format!("ALTER TABLE {at} VALIDATE CONSTRAINT {}", ident(&part.name)));
            }
        }
        if let Some(comment) = part.options.get("comment") {
            sql.push_str(&format!(";\nCOMMENT ON CONSTRAINT {} ON {at} IS {}", ident(&part.name), literal(comment)));
        }
        let name = TableName::new(on.schema.clone(), part.name.clone());
        Ok(Statement { kind: "foreign key".into(), name, on: Some(on), sql, then })
    }
}
