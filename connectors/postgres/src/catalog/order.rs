//! An order in which objects can be created: what is needed stands before what needs it.

use std::collections::HashMap;

/// Sorts nodes so that each stands behind what it needs; otherwise they keep their order. Needs that no node has are taken as
/// fulfilled. A cycle is broken where it is met last; whoever creates the objects tries again what failed.
pub fn creation_order(keys: &[String], needs: &[Vec<String>]) -> Vec<usize> {
    let mut index: HashMap<&str, Vec<usize>> = HashMap::new();
    for (i, key) in keys.iter().enumerate() {
        index.entry(key).or_default().push(i);
    }
    let mut out = Vec::with_capacity(keys.len());
    let mut state = vec![0u8; keys.len()]; // 0 new, 1 under way, 2 done
    for root in 0..keys.len() {
        // A stack of our own: chains of views can be long.
        let mut stack = vec![(root, 0usize)];
        while let Some((node, at)) = stack.pop() {
            if at == 0 {
                if state[node] != 0 {
                    continue;
                }
                state[node] = 1;
            }
            match needs.get(node).and_then(|n| n.get(at)) {
                Some(need) => {
                    stack.push((node, at + 1));
                    for &next in index.get(need.as_str()).map(Vec::as_slice).unwrap_or_default() {
                        if state[next] == 0 {
                            stack.push((next, 0));
                        }
                    }
                }
                None => {
                    if state[node] != 2 {
                        state[node] = 2;
                        out.push(node);
                    }
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needed_first_and_cycles_end() {
        let keys = ["v2", "v1", "t", "f", "x", "y"].map(String::from);
        let needs = [vec!["v1", "t"], vec!["t", "f"], vec!["nowhere"], vec![], vec!["y"], vec!["x"]]
            .map(|n| n.into_iter().map(String::from).collect::<Vec<_>>());
        let order: Vec<&str> = creation_order(&keys, &needs).into_iter().map(|i| keys[i].as_str()).collect();
        assert_eq!(order.len(), 6);
        let at = |k: &str| order.iter().position(|o| *o == k).unwrap();
        assert!(at("t") < at("v1") && at("f") < at("v1") && at("v1") < at("v2"));
    }
}
