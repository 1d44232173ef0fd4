//! Patterns of one plugin and host, as a tree of segments.
//!
//! ```text
//!   (root) ── orders ─┬─ exact, prefix
//!      │              └─ {} ── items ── prefix
//!      └───── {} ── {} ── prefix
//! ```
//!
//! Each node holds the leaves of patterns that end there. A look-up walks down literals first, then captures, and takes
//! the deepest leaf that takes the method: a branch that comes to nothing is left again. It visits each node once at
//! most, allocates nothing, and is as deep as the longest pattern, not as the path.

use std::collections::HashMap;

use http::Method;

use super::pattern::{PathKind, PathPattern, Segment};

/// What a pattern leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leaf {
    /// Index of the route.
    pub(super) route: u32,
    /// Index of the route's match.
    pub(super) matched: u32,
    /// Which segment names the service, if a capture does.
    pub(super) service: Option<u16>,
    /// Which segment names the node, if a capture does.
    pub(super) node: Option<u16>,
    /// Whether what was matched is removed from the path.
    pub(super) strips: bool,
}

/// A leaf that takes a call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found<'a> {
    pub(super) leaf: &'a Leaf,
    /// Segments of the path that the pattern took.
    depth: usize,
    /// Bytes of the path that they make up, with their slashes.
    pub(super) length: usize,
}

#[derive(Debug)]
pub(super) struct Trie {
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    literals: HashMap<Box<str>, u32>,
    capture: Option<u32>,
    leaves: Option<Box<Leaves>>,
}

/// Leaves of patterns that end at one node.
#[derive(Debug, Default)]
struct Leaves {
    exact: ByMethod,
    prefix: ByMethod,
}

/// One leaf for each method, and one for every other.
#[derive(Debug, Default)]
struct ByMethod {
    named: Vec<(Method, Leaf)>,
    any: Option<Leaf>,
}

impl Trie {
    pub(super) fn new() -> Self {
        Self { nodes: vec![Node::default()] }
    }

    /// Adds a leaf.
    ///
    /// # Errors
    /// The leaf that takes the very same calls already; it stays.
    pub(super) fn insert(
        &mut self,
        path: &PathPattern,
        method: Option<&Method>,
        leaf: Leaf,
    ) -> Result<(), Leaf> {
        let mut at = 0;
        for segment in path.segments() {
            at = self.child(at, segment);
        }
        let leaves = self.nodes[at].leaves.get_or_insert_default();
        let by_method = match path.kind() {
            PathKind::Exact => &mut leaves.exact,
            PathKind::PathPrefix | PathKind::Template => &mut leaves.prefix,
        };
        by_method.insert(method, leaf)
    }

    fn child(&mut self, parent: usize, segment: &Segment) -> usize {
        let next = u32::try_from(self.nodes.len()).expect("fewer nodes than bytes of config");
        let child = match segment {
            Segment::Literal(text) => match self.nodes[parent].literals.get(text) {
                Some(child) => *child,
                None => *self.nodes[parent].literals.entry(text.clone()).or_insert(next),
            },
            Segment::Capture(_) => *self.nodes[parent].capture.get_or_insert(next),
        };
        if child == next {
            self.nodes.push(Node::default());
        }
        child as usize
    }

    /// The most specific leaf that takes a call: more segments before fewer, then from the left a literal before a
    /// capture, then the exact path before a prefix, then a named method before any.
    pub(super) fn find(&self, path: &str, method: &Method) -> Option<Found<'_>> {
        let below_root = path.strip_prefix('/')?;
        let mut best = None;
        self.search(&self.nodes[0], Look { path, method }, Some(below_root), 0, &mut best);
        best
    }

    /// Looks at `node`, which took `depth` segments, and everything below; `rest` is what of the path is left.
    fn search<'a>(
        &'a self,
        node: &'a Node,
        look: Look<'_>,
        rest: Option<&str>,
        depth: usize,
        best: &mut Option<Found<'a>>,
    ) {
        if let Some(rest) = rest {
            let (segment, below) = match rest.as_bytes().iter().position(|byte| *byte == b'/') {
                Some(end) => (&rest[..end], Some(&rest[end + 1..])),
                None => (rest, None),
            };
            if let Some(child) = node.literals.get(segment) {
                self.search(&self.nodes[*child as usize], look, below, depth + 1, best);
            }
            if let Some(child) = node.capture {
                self.search(&self.nodes[child as usize], look, below, depth + 1, best);
            }
        }
        let Some(leaves) = &node.leaves else { return };
        // What was found so far came from further to the left among literals: it gives way to more segments only.
        if best.is_some_and(|best| best.depth >= depth) {
            return;
        }
        let exact = if rest.is_none() { leaves.exact.find(look.method) } else { None };
        if let Some(leaf) = exact.or_else(|| leaves.prefix.find(look.method)) {
            // The rest stands behind a slash that belongs to it.
            let length = rest.map_or(look.path.len(), |rest| look.path.len() - rest.len() - 1);
            *best = Some(Found { leaf, depth, length });
        }
    }
}

/// What stays the same during a look-up.
#[derive(Clone, Copy)]
struct Look<'a> {
    path: &'a str,
    method: &'a Method,
}

impl ByMethod {
    fn insert(&mut self, method: Option<&Method>, leaf: Leaf) -> Result<(), Leaf> {
        let taken = match method {
            None => self.any,
            Some(method) => self.named.iter().find(|(named, _)| named == method).map(|(_, leaf)| *leaf),
        };
        match (taken, method) {
            (Some(taken), _) => return Err(taken),
            (None, None) => self.any = Some(leaf),
            (None, Some(method)) => self.named.push((method.clone(), leaf)),
        }
        Ok(())
    }

    fn find(&self, method: &Method) -> Option<&Leaf> {
        let named = self.named.iter().find(|(named, _)| named == method).map(|(_, leaf)| leaf);
        named.or(self.any.as_ref())
    }
}
