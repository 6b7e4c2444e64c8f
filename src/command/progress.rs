//! What a person sees while something long goes on: a line on standard error, on a terminal only.

use super::output::Format;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::Duration;

/// A line that says what is going on. It vanishes when dropped.
pub struct Progress(ProgressBar);

impl Progress {
    /// Starts it.
    pub fn start(format: Format, message: String) -> Self {
        let bar = match format {
            Format::Json => ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()),
            Format::Text => ProgressBar::new_spinner(),
        };
        let style =
            ProgressStyle::with_template("{spinner} {msg} ({elapsed})").expect("the template is well-formed");
        bar.set_style(style);
        bar.set_message(message);
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(bar)
    }

    /// Whether anybody sees it. Where nobody does, nobody needs to be asked how far it is.
    pub fn is_shown(&self) -> bool {
        !self.0.is_hidden()
    }

    /// Says something else.
    pub fn say(&self, message: String) {
        self.0.set_message(message);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
