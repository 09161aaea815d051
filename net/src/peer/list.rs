//! Lists of what frames carry: items to be sent, or items that came, where they lie.
//!
//! A list that goes out is a slice. One that came in is the archive in the receive buffer; its items
//! are made as they are looked at, which copies their fields and allocates nothing. A version adds a
//! variant to `Source`.

use std::fmt;

use super::message::{Ack, Ask, Fence, FenceAnswer, ReplicaId, Replicate};
use super::{v1, v2};

macro_rules! lists {
    ($( $(#[$doc:meta])* $list:ident of $item:ty, $v1:ty $(=> $v2:ty)?, $source:ident; )*) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub struct $list<'a>($source<'a>);

        #[derive(Clone, Copy)]
        enum $source<'a> {
            Plain(&'a [$item]),
            V1 { items: &'a [$v1], payload: &'a [u8] },
            $( V2 { items: &'a [$v2], payload: &'a [u8] }, )?
        }

        impl<'a> $list<'a> {
            /// Items to be sent.
            #[must_use]
            pub fn new(items: &'a [$item]) -> $list<'a> {
                $list($source::Plain(items))
            }

            /// Archived items that have passed every check, and the payload of their frame.
            pub(super) fn v1(items: &'a [$v1], payload: &'a [u8]) -> $list<'a> {
                $list($source::V1 { items, payload })
            }

            $(
                /// The same of version 2.
                pub(super) fn v2(items: &'a [$v2], payload: &'a [u8]) -> $list<'a> {
                    $list($source::V2 { items, payload })
                }
            )?

            /// How many.
            #[must_use]
            pub fn len(&self) -> usize {
                match self.0 {
                    $source::Plain(items) => items.len(),
                    $source::V1 { items, .. } => items.len(),
                    $( $source::V2 { items, .. } => <[$v2]>::len(items), )?
                }
            }

            /// Whether there are none.
            #[must_use]
            pub fn is_empty(&self) -> bool {
                self.len() == 0
            }

            /// The item with this number, from 0.
            #[must_use]
            pub fn get(&self, index: usize) -> Option<$item> {
                match self.0 {
                    $source::Plain(items) => items.get(index).copied(),
                    $source::V1 { items, payload } => {
                        items.get(index).map(|item| v1::Item::plain(item, payload))
                    }
                    $( $source::V2 { items, payload } => {
                        let item: Option<&'a $v2> = items.get(index);
                        item.map(|item| v1::Item::plain(item, payload))
                    } )?
                }
            }

            /// Every item.
            pub fn iter(&self) -> impl Iterator<Item = $item> + use<'a> {
                let list = *self;
                (0..list.len()).map_while(move |index| list.get(index))
            }
        }

        impl<'a> From<&'a [$item]> for $list<'a> {
            fn from(items: &'a [$item]) -> $list<'a> {
                $list::new(items)
            }
        }

        impl fmt::Debug for $list<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_list().entries(self.iter()).finish()
            }
        }

        /// Lists are equal when they say the same, wherever it lies.
        impl PartialEq for $list<'_> {
            fn eq(&self, other: &Self) -> bool {
                self.len() == other.len() && self.iter().eq(other.iter())
            }
        }

        impl Eq for $list<'_> {}
    )* };
}

lists! {
    /// Sections of a `Replicate` frame.
    Sections of Replicate<'a>, v1::ArchivedSection => v2::ArchivedSection, SectionSource;
    /// Answers of replicas.
    Acks of Ack, v1::ArchivedAck, AckSource;
    /// Begun elections.
    Fences of Fence, v1::ArchivedFence, FenceSource;
    /// Answers of voters.
    FenceAnswers of FenceAnswer, v1::ArchivedFenceAnswer, FenceAnswerSource;
    /// Requests to the controller.
    Asks of Ask<'a>, v1::ArchivedAsk, AskSource;
    /// Replicas.
    Replicas of ReplicaId, v1::ArchivedReplica, ReplicaSource;
}
