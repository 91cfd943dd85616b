//! One thread for long work that nobody on the request path waits for: compiling a configuration and freeing the one before
//! it. One, so that the memory of one configuration serves the next.

use std::sync::mpsc::{Sender, channel};

use tokio::sync::oneshot;

type Work = Box<dyn FnOnce() + Send>;

/// The thread; it ends with this.
pub struct Background(Sender<Work>);

impl Background {
    /// Starts it; `prepare` is the first that it does.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(prepare: impl FnOnce() + Send + 'static) -> std::io::Result<Self> {
        let (sender, inbox) = channel::<Work>();
        std::thread::Builder::new().name("background".to_owned()).spawn(move || {
            prepare();
            for work in inbox {
                // What breaks off is told by its answer, which then never comes.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            }
        })?;
        Ok(Background(sender))
    }

    /// Does `work` when its turn comes. The answer is an error when it broke off.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> oneshot::Receiver<T> {
        let (answer, receiver) = oneshot::channel();
        // Whoever does not wait needs no answer; a thread that is gone leaves none.
        let _ = self.0.send(Box::new(move || drop(answer.send(work()))));
        receiver
    }
}
