//! The search for an order, when nothing but the answers tells it.
//!
//! Wing and Gong (1993): take any operation that no remaining one precedes, apply it to the state,
//! go on; step back when stuck. Lowe (2017): remember which sets of operations led to which
//! state, and never try the same twice. Calls and answers are one linked list from which taken
//! operations are cut out and put back (as in Porcupine). Three savings keep the verdict exact:
//! - an operation that only looks, and fits, is taken at once, and never reconsidered;
//! - of operations of unknown outcome that do the same, the one sent first is taken first;
//! - one of unknown outcome that would change nothing is not taken, nor one before which the
//!   specification sees no use.

use std::collections::HashSet;
use std::hash::Hash;

use super::history::Nanos;
use super::items::NEVER;

/// When an operation may take effect, and whether it certainly did.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) inv: Nanos,
    pub(super) res: Nanos,
    pub(super) certain: bool,
}

/// What operations do to the data, one after the other.
pub(super) trait Spec {
    /// The data.
    type State: Clone + Eq + Hash;

    /// Before the first operation.
    fn initial(&self) -> Self::State;

    /// After operation `item`; `None` when its answer is impossible in `state`.
    fn step(&self, state: &Self::State, item: usize) -> Option<Self::State>;

    /// Whether two operations of unknown outcome do the same in every state.
    fn same(&self, a: usize, b: usize) -> bool;

    /// Whether an operation changes nothing in any state, except what has expired.
    fn is_look(&self, item: usize) -> bool;

    /// Whether an operation of unknown outcome is only taken when something depends on it.
    fn is_optional(&self, item: usize) -> bool;

    /// Whether `next` may be taken right after the optional operations `run`. It need not be when
    /// leaving one of them out, or taking it later, leads to the same.
    fn follows(&self, run: &[usize], next: usize) -> bool;

    /// Bytes of a state, about.
    fn weight(&self) -> usize;
}

/// What came out.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// An order.
    Order,
    /// That there is none. Places in the list of items: the longest order found, and the
    /// operation whose answer nothing explains.
    Nothing { longest: Vec<usize>, stuck: usize },
    /// The bound of work was used up.
    GaveUp,
}

const HEAD: usize = 0;

/// Calls and answers in order of time. Entry 0 is the head.
struct Entries {
    next: Vec<usize>,
    previous: Vec<usize>,
    /// The item, and whether this is its answer.
    what: Vec<(usize, bool)>,
    call: Vec<usize>,
    answer: Vec<Option<usize>>,
}

impl Entries {
    fn new(items: &[Span]) -> Entries {
        let mut events = Vec::with_capacity(2 * items.len());
        for (i, item) in items.iter().enumerate() {
            events.push((item.inv, false, i));
            if item.res != NEVER {
                events.push((item.res, true, i));
            }
        }
        // Calls before answers of the same moment: what touches, overlaps.
        events.sort_unstable();
        let n = events.len() + 1;
        let mut entries = Entries {
            next: (1..=n).collect(),
            previous: (0..n).map(|i| i.saturating_sub(1)).collect(),
            what: vec![(usize::MAX, true)],
            call: vec![0; items.len()],
            answer: vec![None; items.len()],
        };
        for (at, (_, is_answer, item)) in (1..).zip(events) {
            entries.what.push((item, is_answer));
            if is_answer {
                entries.answer[item] = Some(at);
            } else {
                entries.call[item] = at;
            }
        }
        entries.previous.push(n - 1);
        entries
    }

    fn end(&self) -> usize {
        self.what.len()
    }

    fn cut(&mut self, at: usize) {
        let (before, after) = (self.previous[at], self.next[at]);
        self.next[before] = after;
        self.previous[after] = before;
    }

    fn restore(&mut self, at: usize) {
        let (before, after) = (self.previous[at], self.next[at]);
        self.next[before] = at;
        self.previous[after] = at;
    }

    fn lift(&mut self, item: usize) {
        self.cut(self.call[item]);
        if let Some(at) = self.answer[item] {
            self.cut(at);
        }
    }

    fn unlift(&mut self, item: usize) {
        if let Some(at) = self.answer[item] {
            self.restore(at);
        }
        self.restore(self.call[item]);
    }
}

/// Operations taken, the state, and the run they end with.
type Reached<S> = (Box<[u64]>, S, Vec<usize>);

struct Frame<S> {
    item: usize,
    before: S,
    /// Nothing else has to be tried in its place.
    forced: bool,
}

/// Looks for an order of `items` that `spec` allows, taking at most `work` steps off `work`.
pub(super) fn search<S: Spec>(spec: &S, items: &[Span], work: &mut u64) -> Found {
    let words = items.len().div_ceil(64);
    let mut search = Search {
        spec,
        items,
        twins: twins(spec, items),
        remembering: 4 + (8 * words + spec.weight()) as u64 / 32,
        entries: Entries::new(items),
        taken: vec![0; words],
        seen: HashSet::new(),
        stack: Vec::new(),
        state: spec.initial(),
        run: Vec::new(),
    };
    let mut longest: Option<(Vec<usize>, usize)> = None;
    let mut at = search.entries.next[HEAD];
    // First what must come, then, when an answer is in the way, what may: most answers need none.
    let mut tries_optional = false;
    loop {
        if *work == 0 {
            return Found::GaveUp;
        }
        *work -= 1;
        if at == search.entries.end() {
            return Found::Order;
        }
        let (item, is_answer) = search.entries.what[at];
        if is_answer && !tries_optional {
            tries_optional = true;
            at = search.entries.next[HEAD];
        } else if is_answer {
            if longest.as_ref().is_none_or(|(order, _)| order.len() < search.stack.len()) {
                longest = Some((search.stack.iter().map(|f| f.item).collect(), item));
            }
            let Some(back) = search.step_back() else {
                let (longest, stuck) = longest.unwrap_or((Vec::new(), item));
                return Found::Nothing { longest, stuck };
            };
            at = search.entries.next[search.entries.call[back]];
            tries_optional = spec.is_optional(back);
        } else if spec.is_optional(item) == tries_optional && search.take(item, work) {
            at = search.entries.next[HEAD];
            tries_optional = false;
        } else {
            at = search.entries.next[at];
        }
    }
}

struct Search<'a, S: Spec> {
    spec: &'a S,
    items: &'a [Span],
    twins: Vec<Option<usize>>,
    /// Work that remembering one state costs, so that the bound of work bounds memory as well.
    remembering: u64,
    entries: Entries,
    /// One bit per item.
    taken: Vec<u64>,
    seen: HashSet<Reached<S::State>>,
    stack: Vec<Frame<S::State>>,
    state: S::State,
    /// The optional operations taken last, one after the other.
    run: Vec<usize>,
}

impl<S: Spec> Search<'_, S> {
    /// Takes an item as the next one, when that is possible and was not tried before.
    fn take(&mut self, item: usize, work: &mut u64) -> bool {
        let twin_waits =
            self.twins[item].is_some_and(|t| self.taken[t / 64] & (1 << (t % 64)) == 0);
        if twin_waits || (!self.run.is_empty() && !self.spec.follows(&self.run, item)) {
            return false;
        }
        let Some(after) = self.spec.step(&self.state, item) else { return false };
        let idle = after == self.state;
        if idle && !self.items[item].certain {
            return false;
        }
        let forced = idle && self.spec.is_look(item);
        let mut run = Vec::new();
        if self.spec.is_optional(item) {
            run.clone_from(&self.run);
            run.push(item);
        }
        self.taken[item / 64] |= 1 << (item % 64);
        if !forced {
            *work = work.saturating_sub(self.remembering);
            let taken = self.taken.clone().into_boxed_slice();
            if !self.seen.insert((taken, after.clone(), run.clone())) {
                self.taken[item / 64] &= !(1 << (item % 64));
                return false;
            }
        }
        self.entries.lift(item);
        self.run = run;
        let before = std::mem::replace(&mut self.state, after);
        self.stack.push(Frame { item, before, forced });
        true
    }

    /// Undoes what was taken last and could have been otherwise, and returns it.
    fn step_back(&mut self) -> Option<usize> {
        while let Some(Frame { item, before, forced }) = self.stack.pop() {
            self.entries.unlift(item);
            self.taken[item / 64] &= !(1 << (item % 64));
            if !forced {
                self.state = before;
                let taken = self.stack.iter().map(|frame| frame.item);
                self.run = taken.rev().take_while(|i| self.spec.is_optional(*i)).collect();
                self.run.reverse();
                return Some(item);
            }
        }
        None
    }
}

/// For each item of unknown outcome, the one before it that does the same.
fn twins<S: Spec>(spec: &S, items: &[Span]) -> Vec<Option<usize>> {
    let mut unknown: Vec<usize> = (0..items.len()).filter(|i| !items[*i].certain).collect();
    unknown.sort_by_key(|i| items[*i].inv);
    let mut twins = vec![None; items.len()];
    // The last item of each kind met so far.
    let mut kinds: Vec<usize> = Vec::new();
    for i in unknown {
        match kinds.iter_mut().find(|k| spec.same(**k, i)) {
            Some(kind) => twins[i] = Some(std::mem::replace(kind, i)),
            None => kinds.push(i),
        }
    }
    twins
}
