//! Messages to the service manager (sd_notify(3)).

use std::sync::mpsc::{Sender, channel};
use std::thread::{JoinHandle, spawn};

use nix::sched::{CloneFlags, unshare};
use sd_notify::NotifyState;

/// How much longer the service manager is to wait when another piece of work begins, in
/// microseconds; as long as the units give the first one (`TimeoutStartSec=`).
const EXTENSION: u32 = 300_000_000;

/// The service manager, if this process runs under one that wants to hear of it. One that does not
/// listen is no reason not to do the work: nothing here fails.
#[derive(Debug, Default)]
pub(crate) struct ServiceManager(Option<Messenger>);

/// A thread that keeps the root directory it began with: the socket is looked up anew for each
/// message, and with `--root` its path comes to mean something else for the rest of the process.
#[derive(Debug)]
struct Messenger {
    messages: Sender<Message>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
enum Message {
    Working(String),
    Ready(String),
    Status(String),
}

impl ServiceManager {
    /// The service manager that `NOTIFY_SOCKET` names, if it does. To be called before `--root`
    /// changes what that path means.
    pub(crate) fn from_environment() -> ServiceManager {
        let named = std::env::var_os("NOTIFY_SOCKET").is_some();
        ServiceManager(named.then(Messenger::start).flatten())
    }

    /// Tells what is being done, for `systemctl status`, and that it takes its time.
    pub(crate) fn working(&self, text: &str) {
        self.send(Message::Working(line(text)));
    }

    /// Tells that the service is ready.
    pub(crate) fn ready(&self, status: &str) {
        self.send(Message::Ready(line(status)));
    }

    /// Tells how it ended.
    pub(crate) fn status(&self, text: &str) {
        self.send(Message::Status(line(text)));
    }

    fn send(&self, message: Message) {
        if let Some(messenger) = &self.0 {
            // It ends only after this.
            let _ = messenger.messages.send(message);
        }
    }
}

impl Drop for ServiceManager {
    /// Waits until everything has been sent.
    fn drop(&mut self) {
        if let Some(Messenger { messages, thread }) = self.0.take() {
            drop(messages);
            let _ = thread.join();
        }
    }
}

impl Messenger {
    fn start() -> Option<Messenger> {
        let (messages, to_send) = channel();
        let (tell, is_apart) = channel();
        let thread = spawn(move || {
            let apart = unshare(CloneFlags::CLONE_FS).is_ok();
            if tell.send(apart).is_ok() && apart {
                to_send.iter().for_each(|message| notify(&message));
            }
        });
        is_apart
            .recv()
            .unwrap_or(false)
            .then_some(Messenger { messages, thread })
    }
}

fn notify(message: &Message) {
    // See `ServiceManager`.
    let _ = match message {
        Message::Working(text) => sd_notify::notify(&[
            NotifyState::Status(text),
            NotifyState::ExtendTimeoutUsec(EXTENSION),
        ]),
        Message::Ready(text) => sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(text)]),
        Message::Status(text) => sd_notify::notify(&[NotifyState::Status(text)]),
    };
}

/// A newline would begin another variable.
fn line(text: &str) -> String {
    text.replace('\n', " ")
}
