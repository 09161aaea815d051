//! Channels and the lock openraft works with: tokio's, which need no executor of their own.

use std::future::Future;

use openraft::async_runtime::{
    Mpsc, MpscReceiver, MpscSender, MpscWeakSender, Mutex, Oneshot, OneshotSender, RecvError,
    SendError, TryRecvError, Watch, WatchReceiver, WatchSender, watch,
};
use openraft::{OptionalSend, OptionalSync};
use tokio::sync;

/// Bounded queues.
pub struct RaftMpsc;

/// Puts into a queue.
pub struct Sender<T>(sync::mpsc::Sender<T>);

/// Takes from a queue.
pub struct Receiver<T>(sync::mpsc::Receiver<T>);

/// A sender that does not keep its queue open.
pub struct WeakSender<T>(sync::mpsc::WeakSender<T>);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Sender(self.0.clone())
    }
}

impl<T> Clone for WeakSender<T> {
    fn clone(&self) -> Self {
        WeakSender(self.0.clone())
    }
}

impl Mpsc for RaftMpsc {
    type Sender<T: OptionalSend> = Sender<T>;
    type Receiver<T: OptionalSend> = Receiver<T>;
    type WeakSender<T: OptionalSend> = WeakSender<T>;

    fn channel<T: OptionalSend>(buffer: usize) -> (Sender<T>, Receiver<T>) {
        let (tx, rx) = sync::mpsc::channel(buffer);
        (Sender(tx), Receiver(rx))
    }
}

impl<T: OptionalSend> MpscSender<RaftMpsc, T> for Sender<T> {
    async fn send(&self, message: T) -> Result<(), SendError<T>> {
        self.0.send(message).await.map_err(|refused| SendError(refused.0))
    }

    fn downgrade(&self) -> WeakSender<T> {
        WeakSender(self.0.downgrade())
    }
}

impl<T: OptionalSend> MpscReceiver<T> for Receiver<T> {
    fn recv(&mut self) -> impl Future<Output = Option<T>> + OptionalSend {
        self.0.recv()
    }

    fn try_recv(&mut self) -> Result<T, TryRecvError> {
        self.0.try_recv().map_err(|error| match error {
            sync::mpsc::error::TryRecvError::Empty => TryRecvError::Empty,
            sync::mpsc::error::TryRecvError::Disconnected => TryRecvError::Disconnected,
        })
    }
}

impl<T: OptionalSend> MpscWeakSender<RaftMpsc, T> for WeakSender<T> {
    fn upgrade(&self) -> Option<Sender<T>> {
        self.0.upgrade().map(Sender)
    }
}

/// Channels that keep the last value.
pub struct RaftWatch;

/// Sets the value.
pub struct Watched<T>(sync::watch::Sender<T>);

/// Waits for values.
pub struct Watcher<T>(sync::watch::Receiver<T>);

impl<T> Clone for Watched<T> {
    fn clone(&self) -> Self {
        Watched(self.0.clone())
    }
}

impl<T> Clone for Watcher<T> {
    fn clone(&self) -> Self {
        Watcher(self.0.clone())
    }
}

impl Watch for RaftWatch {
    type Sender<T: OptionalSend + OptionalSync> = Watched<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Watcher<T>;
    type Ref<'a, T: OptionalSend + 'a> = sync::watch::Ref<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (Watched<T>, Watcher<T>) {
        let (tx, rx) = sync::watch::channel(init);
        (Watched(tx), Watcher(rx))
    }
}

impl<T: OptionalSend + OptionalSync> WatchSender<RaftWatch, T> for Watched<T> {
    fn send(&self, value: T) -> Result<(), watch::SendError<T>> {
        self.0.send(value).map_err(|refused| watch::SendError(refused.0))
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        self.0.send_if_modified(modify)
    }

    fn borrow_watched(&self) -> sync::watch::Ref<'_, T> {
        self.0.borrow()
    }

    fn subscribe(&self) -> Watcher<T> {
        Watcher(self.0.subscribe())
    }
}

impl<T: OptionalSend + OptionalSync> WatchReceiver<RaftWatch, T> for Watcher<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        self.0.changed().await.map_err(|_| RecvError(()))
    }

    fn borrow_watched(&self) -> sync::watch::Ref<'_, T> {
        self.0.borrow()
    }

    fn borrow_and_update(&mut self) -> sync::watch::Ref<'_, T> {
        self.0.borrow_and_update()
    }
}

/// Channels for one value.
pub struct RaftOneshot;

/// Sends the value.
pub struct Once<T>(sync::oneshot::Sender<T>);

impl Oneshot for RaftOneshot {
    type Sender<T: OptionalSend> = Once<T>;
    type Receiver<T: OptionalSend> = sync::oneshot::Receiver<T>;
    type ReceiverError = sync::oneshot::error::RecvError;

    fn channel<T: OptionalSend>() -> (Once<T>, sync::oneshot::Receiver<T>) {
        let (tx, rx) = sync::oneshot::channel();
        (Once(tx), rx)
    }
}

impl<T: OptionalSend> OneshotSender<T> for Once<T> {
    fn send(self, value: T) -> Result<(), T> {
        self.0.send(value)
    }
}

/// A lock that is waited for.
pub struct RaftMutex<T>(sync::Mutex<T>);

impl<T: OptionalSend + 'static> Mutex<T> for RaftMutex<T> {
    type Guard<'a> = sync::MutexGuard<'a, T>;

    fn new(value: T) -> Self {
        RaftMutex(sync::Mutex::new(value))
    }

    fn lock(&self) -> impl Future<Output = sync::MutexGuard<'_, T>> + OptionalSend {
        self.0.lock()
    }
}
