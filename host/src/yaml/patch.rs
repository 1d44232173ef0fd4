//! Takes what is wrong out of a value, so that decoding can go on and find the next problem.

use std::collections::HashSet;

use serde_path_to_error::Segment;
use serde_yaml::{Mapping, Value};

use super::wording;

/// One step of a path into a value, as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Step {
    Index(usize),
    Key(String),
}

/// How deep placeholders go, in case a type requires itself.
const DEEPEST: usize = 32;

/// A value and what was done to it.
pub(super) struct Patches {
    value: Value,
    /// Indices that were removed from lists, by the list's path as written.
    removed_elements: Vec<(Vec<Step>, usize)>,
    /// Paths as written that were taken out as wrong: they are not missing.
    removed: HashSet<Vec<Step>>,
    /// Where a placeholder stands, and which.
    placeholders: Vec<(Vec<Step>, usize)>,
    /// Whether what decodes now is what was written less what was reported.
    faithful: bool,
    /// Nothing is left to decode.
    spent: bool,
}

/// What to put in for a required field, in this order: one of them fits nearly every type.
fn placeholder(at: usize) -> Option<Value> {
    Some(match at {
        0 => Value::from("placeholder"),
        1 => Value::from("127.0.0.1:1"),
        2 => Value::from("1s"),
        3 => Value::from(1),
        4 => Value::from(true),
        5 => Value::Sequence(Vec::new()),
        6 => Value::Mapping(Mapping::new()),
        _ => return None,
    })
}

impl Patches {
    pub(super) fn new(value: Value) -> Self {
        Self {
            value,
            removed_elements: Vec::new(),
            removed: HashSet::new(),
            placeholders: Vec::new(),
            faithful: true,
            spent: false,
        }
    }

    pub(super) fn value(&self) -> &Value {
        &self.value
    }

    pub(super) fn is_faithful(&self) -> bool {
        self.faithful
    }

    pub(super) fn is_spent(&self) -> bool {
        self.spent
    }

    /// Patches the value after serde's error `message` at `segments`. Returns the path as written and the problem to
    /// report, `None` if the error comes of an earlier patch.
    pub(super) fn apply(&mut self, segments: Vec<Segment>, message: &str) -> (String, Option<String>) {
        // Where serde lost track, what holds the unknown part is the best answer.
        let steps: Vec<Step> = segments
            .into_iter()
            .map_while(|segment| match segment {
                Segment::Seq { index } => Some(Step::Index(index)),
                Segment::Map { key } | Segment::Enum { variant: key } => Some(Step::Key(key)),
                Segment::Unknown => None,
            })
            .collect();
        let missing = wording::missing_field(message);
        if let Some(last) = self.placeholders.iter().rposition(|(at, _)| steps.starts_with(at)) {
            match missing {
                // A placeholder that is a section has required fields of its own, which nobody left out.
                Some(field) => self.fill(steps, field),
                None => self.next_placeholder(last),
            }
            return (String::new(), None);
        }
        if let Some(field) = missing {
            let written: Vec<Step> =
                self.as_written(&steps).into_iter().chain([Step::Key(field.to_owned())]).collect();
            let problem = (!self.removed.contains(&written)).then(|| "is missing".to_owned());
            self.fill(steps, field);
            return (text_of(&written), problem);
        }
        let written = self.as_written(&steps);
        // An error above a placeholder may be the placeholder's fault, so it is nobody's problem.
        let blameless = self.placeholders.iter().any(|(at, _)| at.starts_with(&steps));
        let problem = (!blameless).then(|| {
            let key = steps.iter().rev().find_map(|step| match step {
                Step::Key(key) => Some(key.as_str()),
                Step::Index(_) => None,
            });
            wording::reword(message, find(&self.value, &steps), key.unwrap_or_default())
        });
        if blameless {
            self.faithful = false;
        }
        self.remove(&steps);
        (text_of(&written), problem)
    }

    /// Puts a placeholder into a required field that is not there.
    fn fill(&mut self, parent: Vec<Step>, field: &str) {
        self.faithful = false;
        match find_mut(&mut self.value, &parent) {
            Some(Value::Mapping(mapping)) if parent.len() < DEEPEST => {
                mapping.insert(Value::from(field), placeholder(0).expect("there is a first placeholder"));
                self.placeholders
                    .push((parent.into_iter().chain([Step::Key(field.to_owned())]).collect(), 0));
            }
            _ => self.remove(&parent),
        }
    }

    /// Tries the next placeholder where one does not fit; after the last, gives up what holds it.
    fn next_placeholder(&mut self, index: usize) {
        // Later ones stood below or beside it; those below go with it.
        let (steps, tried) = self.placeholders.remove(index);
        self.placeholders.retain(|(at, _)| !at.starts_with(&steps));
        let (last, parent) = steps.split_last().expect("a placeholder stands in a field");
        match (placeholder(tried + 1), find_mut(&mut self.value, parent), last) {
            (Some(next), Some(Value::Mapping(mapping)), Step::Key(key)) => {
                mapping.insert(Value::from(key.as_str()), next);
                self.placeholders.push((steps, tried + 1));
            }
            _ => self.remove(parent),
        }
    }

    fn remove(&mut self, steps: &[Step]) {
        let Some((last, parent)) = steps.split_last() else {
            self.spent = true;
            return;
        };
        let written = self.as_written(steps);
        let removed = match (find_mut(&mut self.value, parent), last) {
            (Some(Value::Mapping(mapping)), Step::Key(key)) => mapping.shift_remove(key.as_str()).is_some(),
            (Some(Value::Sequence(list)), Step::Index(index)) if *index < list.len() => {
                list.remove(*index);
                let Some((Step::Index(original), list)) = written.split_last() else {
                    unreachable!("a path as written has the steps of the path as it is")
                };
                self.removed_elements.push((list.to_vec(), *original));
                self.faithful = false;
                self.shift_placeholders(parent, *index);
                true
            }
            _ => false,
        };
        self.placeholders.retain(|(at, _)| !at.starts_with(steps));
        self.removed.insert(written);
        if !removed {
            // What is wrong can't be found: take out what holds it, at last everything.
            self.faithful = false;
            self.remove(parent);
        }
    }

    /// Follows placeholders behind an element that was removed, and forgets those within it.
    fn shift_placeholders(&mut self, list: &[Step], removed: usize) {
        let depth = list.len();
        self.placeholders.retain_mut(|(at, _)| {
            if !at.starts_with(list) {
                return true;
            }
            match at.get_mut(depth) {
                Some(Step::Index(index)) if *index == removed => false,
                Some(Step::Index(index)) if *index > removed => {
                    *index -= 1;
                    true
                }
                _ => true,
            }
        });
    }

    /// The path in what was written, before elements were removed.
    fn as_written(&self, steps: &[Step]) -> Vec<Step> {
        let mut written: Vec<Step> = Vec::with_capacity(steps.len());
        for step in steps {
            let step = match step {
                Step::Index(index) => {
                    let mut removed: Vec<usize> = self
                        .removed_elements
                        .iter()
                        .filter(|(list, _)| *list == written)
                        .map(|(_, original)| *original)
                        .collect();
                    removed.sort_unstable();
                    Step::Index(
                        removed.into_iter().fold(*index, |at, gone| if gone <= at { at + 1 } else { at }),
                    )
                }
                step => step.clone(),
            };
            written.push(step);
        }
        written
    }
}

fn find<'a>(value: &'a Value, steps: &[Step]) -> Option<&'a Value> {
    steps.iter().try_fold(value, |value, step| match (value, step) {
        (Value::Mapping(mapping), Step::Key(key)) => mapping.get(key.as_str()),
        (Value::Sequence(list), Step::Index(index)) => list.get(*index),
        (Value::Tagged(tagged), Step::Key(_)) => Some(&tagged.value),
        _ => None,
    })
}

fn find_mut<'a>(value: &'a mut Value, steps: &[Step]) -> Option<&'a mut Value> {
    steps.iter().try_fold(value, |value, step| match (value, step) {
        (Value::Mapping(mapping), Step::Key(key)) => mapping.get_mut(key.as_str()),
        (Value::Sequence(list), Step::Index(index)) => list.get_mut(*index),
        (Value::Tagged(tagged), Step::Key(_)) => Some(&mut tagged.value),
        _ => None,
    })
}

fn text_of(steps: &[Step]) -> String {
    steps.iter().fold(String::new(), |path, step| match step {
        Step::Index(index) => format!("{path}[{index}]"),
        Step::Key(key) => crate::report::join(&path, &crate::settings::shorten(key)),
    })
}
