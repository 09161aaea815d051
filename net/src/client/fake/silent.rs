//! A node that says nothing.

use std::net::TcpListener;

/// Where connections are taken and nothing is ever said, until it is dropped.
pub(crate) struct Silent(TcpListener);

impl Silent {
    pub fn start() -> Silent {
        Silent(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    pub fn address(&self) -> String {
        self.0.local_addr().unwrap().to_string()
    }

    /// Connections made, as of the last time this was asked.
    pub fn connections(&self) -> usize {
        self.0.set_nonblocking(true).unwrap();
        std::iter::from_fn(|| self.0.accept().ok()).count()
    }
}
