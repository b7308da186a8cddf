//! What an application has counted, as text that Prometheus reads.

use super::{RestoreProgress, State};
use crate::processor::Counters;
use std::fmt::Write as _;

/// What there is to tell.
pub(super) struct Snapshot<'a> {
    pub(super) application: &'a str,
    pub(super) generation: u32,
    pub(super) counters: Counters,
    pub(super) state: State,
    pub(super) tasks: usize,
    pub(super) restoring: &'a [RestoreProgress],
}

/// Every counter with its name, and what it counts.
fn counted(counters: &Counters) -> [(&'static str, &'static str, u64); 12] {
    // A counter that is added has to be named here.
    let Counters {
        records_in,
        records_out,
        null_keys,
        null_values,
        late,
        undecodable,
        negative_timestamps,
        failed,
        dead_letters,
        held_ms,
        put_aside,
        aside_ms,
    } = *counters;
    [
        ("records_in", "Records taken from source topics.", records_in),
        ("records_out", "Records written to sinks and repartition topics.", records_out),
        ("null_keys", "Records dropped because an operator needs a key.", null_keys),
        ("null_values", "Records dropped because an operator needs a value.", null_values),
        ("late", "Windows that records came too late for.", late),
        ("undecodable", "Records left out because they cannot be decoded.", undecodable),
        ("negative_timestamps", "Records dropped because they have no time.", negative_timestamps),
        ("failed", "Failures of operators for which something was left out.", failed),
        ("dead_letters", "Records written to dead-letter topics.", dead_letters),
        ("held_milliseconds", "Time for which progress control held records back.", held_ms),
        ("put_aside", "Records put aside because they are far ahead of others.", put_aside),
        ("aside_milliseconds", "Time for which records were put aside.", aside_ms),
    ]
}

/// A label's value, as the text format wants it.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

impl Snapshot<'_> {
    /// The text format, version 0.0.4.
    pub(super) fn text(&self) -> String {
        let labels =
            format!("application=\"{}\",generation=\"{}\"", escaped(self.application), self.generation);
        let mut out = String::new();
        for (name, help, value) in counted(&self.counters) {
            family(&mut out, &format!("{name}_total"), "counter", help);
            let _ = writeln!(out, "kappa_streams_{name}_total{{{labels}}} {value}");
        }
        family(&mut out, "tasks", "gauge", "Tasks of this instance.");
        let _ = writeln!(out, "kappa_streams_tasks{{{labels}}} {}", self.tasks);
        family(&mut out, "state", "gauge", "1 for the state that the application is in.");
        for state in State::ALL {
            let is = u8::from(state == self.state);
            let _ = writeln!(out, "kappa_streams_state{{{labels},state=\"{state}\"}} {is}");
        }
        family(&mut out, "restore_offsets_done", "gauge", "Offsets read of stores that are being restored.");
        for RestoreProgress { store, partition, done, .. } in self.restoring {
            let of = format!("{labels},store=\"{}\",partition=\"{partition}\"", escaped(store));
            let _ = writeln!(out, "kappa_streams_restore_offsets_done{{{of}}} {done}");
        }
        family(&mut out, "restore_offsets", "gauge", "Offsets to read of stores that are being restored.");
        for RestoreProgress { store, partition, of: all, .. } in self.restoring {
            let of = format!("{labels},store=\"{}\",partition=\"{partition}\"", escaped(store));
            let _ = writeln!(out, "kappa_streams_restore_offsets{{{of}}} {all}");
        }
        out
    }
}

fn family(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP kappa_streams_{name} {help}\n# TYPE kappa_streams_{name} {kind}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_comment_or_a_labelled_number() {
        let restoring = [RestoreProgress { store: "by \"name\"".into(), partition: 3, done: 5, of: 10 }];
        let counters =
            Counters { records_in: 7, held_ms: 12, put_aside: 3, aside_ms: 9, ..Counters::default() };
        let snapshot = Snapshot {
            application: "a\\b",
            generation: 2,
            counters,
            state: State::Rebalancing,
            tasks: 4,
            restoring: &restoring,
        };
        let text = snapshot.text();
        let labels = r#"application="a\\b",generation="2""#;
        for line in [
            format!("kappa_streams_records_in_total{{{labels}}} 7"),
            format!("kappa_streams_held_milliseconds_total{{{labels}}} 12"),
            format!("kappa_streams_put_aside_total{{{labels}}} 3"),
            format!("kappa_streams_aside_milliseconds_total{{{labels}}} 9"),
            format!("kappa_streams_late_total{{{labels}}} 0"),
            format!("kappa_streams_tasks{{{labels}}} 4"),
            format!("kappa_streams_state{{{labels},state=\"rebalancing\"}} 1"),
            format!("kappa_streams_state{{{labels},state=\"running\"}} 0"),
            format!(r#"kappa_streams_restore_offsets_done{{{labels},store="by \"name\"",partition="3"}} 5"#),
            format!(r#"kappa_streams_restore_offsets{{{labels},store="by \"name\"",partition="3"}} 10"#),
        ] {
            assert_eq!(text.lines().filter(|found| *found == line).count(), 1, "{line}\n{text}");
        }
        let (mut types, mut samples) = (0, 0);
        for line in text.lines() {
            match line.strip_prefix("# TYPE ") {
                Some(_) => types += 1,
                None if line.starts_with("# HELP kappa_streams_") => {}
                None => {
                    let (_, value) = line.rsplit_once("} ").expect(line);
                    value.parse::<u64>().expect(line);
                    samples += 1;
                }
            }
        }
        assert_eq!((types, samples), (16, 12 + 1 + 6 + 2));
    }
}
