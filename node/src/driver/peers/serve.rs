//! Rounds and flushes for an owner that has no turns of its own.

use std::cell::RefCell;
use std::rc::Rc;

use super::event::PeerOwner;
use super::set::Peers;
use crate::driver::clock;
use crate::driver::runtime::Runtime;

/// Runs rounds until [`Peers::stop`], and tells the owner of everything that ended by it. What other
/// tasks build they flush themselves.
///
/// # Errors
/// When the system has no descriptors left.
pub async fn serve<R: Runtime>(
    runtime: Rc<R>,
    peers: Rc<Peers>,
    owner: Rc<RefCell<impl PeerOwner>>,
) -> std::io::Result<()> {
    let waiter = runtime.waiter(peers.descriptor())?;
    while !peers.is_stopped() {
        let worked = peers.round(&mut *owner.borrow_mut());
        peers.flush();
        if worked {
            runtime.yield_now(clock::mono()).await;
        } else {
            runtime.readable(&waiter).await;
        }
    }
    peers.round(&mut *owner.borrow_mut());
    Ok(())
}
