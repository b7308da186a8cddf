//! Progress of long work, drawn on stderr while a person is looking and silent otherwise.

use crate::output::grouped;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use std::{borrow::Cow, fmt, io::IsTerminal, time::Duration};

/// A bar towards `total`; hidden unless stderr is a terminal.
pub(crate) fn bar(total: u64, what: impl Into<Cow<'static, str>>) -> ProgressBar {
    let template = "{msg:>24} {wide_bar:.cyan/dim} {human_pos:>9}/{human_len} {rate:>11} {eta:>4}";
    draw(ProgressBar::with_draw_target(Some(total), target()), template, what.into())
}

/// Two bars, one below the other.
pub(crate) fn bars(first: (u64, &'static str), second: (u64, &'static str)) -> (ProgressBar, ProgressBar) {
    let both = MultiProgress::with_draw_target(target());
    let [first, second] = [first, second].map(|(total, what)| both.add(bar(total, what)));
    (first, second)
}

/// A counter with no known end; hidden unless stderr is a terminal.
pub(crate) fn counter(what: impl Into<Cow<'static, str>>) -> ProgressBar {
    draw(ProgressBar::with_draw_target(None, target()), "{msg:>24} {spinner} {human_pos} {rate}", what.into())
}

fn target() -> ProgressDrawTarget {
    if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr_with_hz(10)
    } else {
        ProgressDrawTarget::hidden()
    }
}

fn draw(bar: ProgressBar, template: &str, what: Cow<'static, str>) -> ProgressBar {
    let style =
        ProgressStyle::with_template(template).expect("the template is a constant that a test parses");
    let rate = |state: &ProgressState, out: &mut dyn fmt::Write| {
        // Where it cannot be drawn, nothing can.
        let _ = write!(out, "{}/s", grouped(state.per_sec() as u64));
    };
    bar.set_style(style.with_key("rate", rate).progress_chars("━╸─"));
    bar.set_message(what);
    if !bar.is_hidden() {
        bar.enable_steady_tick(Duration::from_millis(100));
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_parse() {
        bar(10, "flights").inc(1);
        counter("records").inc(1);
        bars((1, "a"), (2, "b")).1.inc(1);
    }
}
