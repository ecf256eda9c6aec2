//! The health server's sockets from before the volume is first touched to the hand-over, and what answers
//! on them.
//!
//! The server is given descriptors of its own, so that the kernel keeps the connections that come between
//! the server's last answer and the app's first.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::sync::watch;

use super::listen::{self, Socket};
use super::page::Page;
use super::server::{self, ProgressProbe};
use crate::cli::config::ServerConfig;
use crate::cli::values::Address;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::progress::Progress;
use crate::system::limits::FileBudget;

/// Sockets that listen, and the answers.
#[derive(Debug)]
pub(crate) struct Endpoint {
    listening: Vec<Socket>,
    admin: Vec<Socket>,
    seeding: Arc<ProgressProbe>,
}

/// What is left of an endpoint when volumes are complete.
#[derive(Debug)]
pub(crate) struct HandoverSockets {
    /// For the app; none where it is not handed any.
    pub listening: Vec<(Address, OwnedFd)>,
    /// For as long as the app lives.
    pub admin: Vec<Socket>,
    /// What was answered until now.
    pub seeding: Arc<ProgressProbe>,
}

impl Endpoint {
    /// Listens on every address.
    ///
    /// # Errors
    /// Exit 66 where the page cannot be read, 71 where an address is taken or may not be had.
    pub(crate) fn bind(config: ServerConfig, progress: &Arc<Progress>) -> Result<Endpoint> {
        let page = Page::read(config.args.page.as_deref())?;
        let listening = listen::listen(&config.args.listen, &config)?;
        let admin = listen::listen(&config.admin, &config)?;
        for socket in listening.iter().chain(&admin) {
            tracing::info!(address = %socket.address, "listening");
        }
        let seeding = Arc::new(ProgressProbe { config, page, progress: Arc::clone(progress) });
        Ok(Endpoint { listening, admin, seeding })
    }

    /// Answers on every socket until `stop` is true. To be called in a runtime.
    ///
    /// # Errors
    /// Exit 71 where there are too many open files.
    pub(crate) fn serve(
        &self,
        stop: watch::Receiver<bool>,
    ) -> Result<impl Future<Output = ()> + Send + use<>> {
        let all = self.listening.iter().chain(&self.admin);
        let sockets = all.map(Socket::try_clone).collect::<io::Result<Vec<_>>>();
        let connections = FileBudget::read().connections();
        sockets
            .and_then(|sockets| server::serve(sockets, Arc::clone(&self.seeding), connections, stop))
            .map_err(|_| Error::new(Exit::System, "listen", "too many open files"))
    }

    /// Closes every socket, of a Unix socket the file first: an app may bind in its place.
    pub(crate) fn close(self) {
        self.listening.iter().chain(&self.admin).for_each(Socket::remove_file);
    }

    /// Closes what the app has no use for.
    pub(crate) fn hand_over(self, keeps_listening: bool) -> HandoverSockets {
        let Endpoint { listening, admin, seeding } = self;
        if !keeps_listening {
            listening.iter().for_each(Socket::remove_file);
        }
        let kept = listening.into_iter().filter(|socket| keeps_listening && !socket.implied);
        let listening = kept.map(|socket| (socket.address, socket.fd)).collect();
        HandoverSockets { listening, admin, seeding }
    }
}
