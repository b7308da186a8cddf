//! Bits that flip in files while nobody runs, on a copy of the disk: what becomes of them must not be seen.
//!
//! A start refuses, and names the file or its directory, or it shows what it must. Of the partition whose batches are hit,
//! and where nothing in Kafka's format can tell, it is enough that it shows nothing that was never sent.

use super::model::Wrong;
use super::random::Random;
use super::world::World;
use crate::clock::Clock;
use std::path::Path;

/// What may be missing after a file was damaged.
enum Missing {
    Nothing,
    /// Records of the partition whose directory it is in.
    OfItsPartition,
    /// Anything.
    Anything,
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn missing(path: &Path) -> Missing {
    let (file, directory) = (name(path), path.parent().map(name).unwrap_or_default());
    let is_internal = directory.starts_with("__");
    // The second is the first without its name yet.
    let has_batches = file.ends_with(".log") || file == "next-segment";
    match file {
        // The tail of a log that was never checkpointed cannot be told from one that was torn, nor can that of a journal.
        _ if has_batches && is_internal || file.starts_with("journal-") => Missing::Anything,
        // These are Kafka's, without a checksum: one id may become another, and one offset another.
        "partition.metadata" | "leader-epoch-checkpoint" if is_internal => Missing::Anything,
        "partition.metadata" | "leader-epoch-checkpoint" => Missing::OfItsPartition,
        _ if has_batches => Missing::OfItsPartition,
        _ => Missing::Nothing,
    }
}

impl World {
    /// Flips a bit on a copy of the disk and starts a broker there.
    pub(super) fn flip_bit(&mut self, random: &mut Random) -> Result<(), Wrong> {
        let disk = self.disk.copy(random.next());
        let matters = |path: &Path| {
            let path = path.to_string_lossy();
            !["set-aside", ".delete", ".tmp", ".lock", "kappa-reserve"].iter().any(|part| path.contains(part))
        };
        let Some(path) = disk.flip_bit(matters) else { return Ok(()) };
        self.note(|| format!("a bit flips in {}", path.display()));
        let mut twin = World::new(self.seed, self.without);
        (twin.disk, twin.model) = (disk, self.model.clone());
        twin.clock = Clock::manual(self.clock.now_ms());
        twin.check_flipped(&path).map_err(|wrong| format!("a bit flipped in {}: {wrong}", path.display()))
    }

    fn check_flipped(&mut self, path: &Path) -> Result<(), Wrong> {
        match self.open() {
            Ok(opened) => self.live(opened),
            Err(refusal) => {
                let (file, directory) = (name(path), path.parent().map(name).unwrap_or_default());
                let is_named = matches!(missing(path), Missing::Anything)
                    || refusal.contains(file)
                    || refusal.contains(directory);
                return if is_named { Ok(()) } else { Err(format!("refused without its name: {refusal}")) };
            }
        }
        match missing(path) {
            Missing::Nothing => self.check_all(),
            Missing::OfItsPartition => {
                let directory = path.parent().map(name).unwrap_or_default().to_owned();
                self.model.spoil(&directory);
                self.spoiled = Some(directory);
                self.check_all()
            }
            Missing::Anything => Ok(()),
        }
    }
}
