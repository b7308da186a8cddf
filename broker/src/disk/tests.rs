//! What both disks promise, and what only the simulated one does to those who forget to sync.

use super::*;
use std::path::PathBuf;

fn path(name: &str) -> PathBuf {
    Path::new("/").join(name)
}

fn content(disk: &dyn Disk, name: &str) -> io::Result<Vec<u8>> {
    disk.read(&path(name))
}

#[test]
fn both_disks_read_what_was_written_and_replace_files_whole() {
    let temporary = tempfile::tempdir().unwrap();
    let disks: [(&dyn Disk, PathBuf); 2] = [
        (&RealDisk::default(), temporary.path().to_path_buf()),
        (&SimulatedDisk::new(1), PathBuf::from("/")),
    ];
    for (disk, root) in disks {
        let dir = root.join("dir");
        disk.create_dir(&dir).unwrap();
        disk.create_dir(&dir).unwrap();
        let file = disk.create(&dir.join("a.log")).unwrap();
        file.write_at(0, [b"hello ", b"world"]).unwrap();
        file.write_at(6, [b"W", b""]).unwrap();
        let mut bytes = b"> ".to_vec();
        assert_eq!(file.read_at(3, 100, &mut bytes).unwrap(), 8);
        assert_eq!(bytes, b"> lo World");
        file.set_len(5).unwrap();
        assert_eq!(&*file.map().unwrap(), b"hello");
        assert!(file.is_cached(0, 5));
        disk.replace(&dir.join("a.log"), b"new").unwrap();
        assert_eq!(disk.read(&dir.join("a.log")).unwrap(), b"new");
        assert_eq!(disk.len(&dir.join("a.log")).unwrap(), 3);
        let mut names = disk.list(&root).unwrap();
        names.retain(|entry| entry.is_dir);
        assert_eq!(names, [Entry { name: "dir".to_owned(), is_dir: true }]);
        disk.remove_file_if_there(&dir.join("b")).unwrap();
        disk.remove_dir_all(&dir).unwrap();
        assert_eq!(disk.list(&dir).unwrap_err().kind(), io::ErrorKind::NotFound);
        let held = disk.lock(&root.join(".lock")).unwrap();
        assert_eq!(disk.lock(&root.join(".lock")).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(held);
        disk.lock(&root.join(".lock")).unwrap();
    }
}

#[test]
fn a_power_cut_keeps_what_was_synced_and_tears_what_was_not() {
    let (mut torn, mut nameless, mut kept) = (0, 0, 0);
    for seed in 0..200 {
        let disk = SimulatedDisk::new(seed);
        let file = disk.create(&path("a")).unwrap();
        file.write_at(0, [&[1; 2048], &[]]).unwrap();
        file.sync_data().unwrap();
        if seed % 2 == 0 {
            disk.sync_dir(&path("")).unwrap();
        }
        file.write_at(2048, [&[2; 2048], &[]]).unwrap();
        let after = disk.power_cut();
        assert!(file.sync_data().is_err());
        match content(&after, "a") {
            Ok(bytes) => {
                assert_eq!(bytes[..2048], [1; 2048]);
                torn += usize::from(bytes[2048..].contains(&2) && bytes[2048..] != [2; 2048]);
                kept += 1;
            }
            Err(_) => nameless += 1,
        }
        assert!(seed % 2 == 1 || content(&after, "a").is_ok());
    }
    assert!(torn > 20 && nameless > 20 && kept > 100, "{torn} {nameless} {kept}");
}

#[test]
fn a_failed_sync_loses_its_sectors_even_if_the_next_one_succeeds() {
    let disk = SimulatedDisk::new(3);
    let file = disk.create(&path("a")).unwrap();
    disk.sync_dir(&path("")).unwrap();
    file.write_at(0, [&[7; 512], &[]]).unwrap();
    disk.inject(Fault {
        operation: Operation::SyncData,
        path_contains: "a".to_owned(),
        after: 0,
        times: 1,
        error: io::ErrorKind::Other,
    });
    assert!(file.sync_data().is_err());
    file.sync_data().unwrap();
    assert_eq!(content(&disk, "a").unwrap(), [7; 512], "the page cache still shows them");
    assert_eq!(content(&disk.power_cut(), "a").unwrap(), [0; 512]);
}

#[test]
fn renames_and_truncations_that_were_not_synced_may_be_undone() {
    let (mut renamed, mut cut) = (0, 0);
    for seed in 0..100 {
        let disk = SimulatedDisk::new(seed);
        let file = disk.create(&path("a")).unwrap();
        file.write_at(0, [&[7; 1024], &[]]).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir(&path("")).unwrap();
        file.set_len(0).unwrap();
        disk.rename(&path("a"), &path("b")).unwrap();
        let after = disk.power_cut();
        let names = after.list(&path("")).unwrap();
        assert_eq!(names.len(), 1);
        renamed += usize::from(names[0].name == "b");
        cut += usize::from(after.len(&path(&names[0].name)).unwrap() == 0);
    }
    assert!((20..80).contains(&renamed) && (20..80).contains(&cut), "{renamed} {cut}");
}

#[test]
fn space_runs_out_and_read_only_refuses() {
    let disk = SimulatedDisk::new(4);
    let file = disk.create(&path("a")).unwrap();
    disk.set_capacity(Some(1000));
    assert_eq!(file.write_at(0, [&[1; 2000], &[]]).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(disk.used_bytes(), 1000);
    assert_eq!(disk.available_bytes(&path("")).unwrap(), 0);
    file.set_len(500).unwrap();
    file.write_at(500, [&[1; 500], &[]]).unwrap();
    disk.set_read_only(true);
    let refused = io::ErrorKind::ReadOnlyFilesystem;
    assert_eq!(file.write_at(0, [b"x", b""]).unwrap_err().kind(), refused);
    assert_eq!(disk.create(&path("b")).unwrap_err().kind(), refused);
    assert_eq!(disk.rename(&path("a"), &path("b")).unwrap_err().kind(), refused);
}

#[test]
fn a_killed_process_loses_its_locks_and_no_bytes() {
    let disk = SimulatedDisk::new(5);
    let file = disk.create(&path("a")).unwrap();
    file.write_at(0, [b"unsynced", b""]).unwrap();
    let _held = disk.lock(&path(".lock")).unwrap();
    let after = disk.process_kill();
    assert_eq!(content(&after, "a").unwrap(), b"unsynced");
    after.lock(&path(".lock")).unwrap();
}

#[test]
fn what_is_not_durable_in_a_directory_follows_its_new_name() {
    let disk = SimulatedDisk::new(5);
    for dir in ["/old", "/new"] {
        assert!(disk.list(Path::new(dir)).is_err());
    }
    disk.create_dir(Path::new("/old")).unwrap();
    disk.create(Path::new("/old/file")).unwrap();
    disk.rename(Path::new("/old"), Path::new("/new")).unwrap();
    disk.create_dir(Path::new("/old")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk.sync_dir(Path::new("/new")).unwrap();
    let disk = disk.power_cut();
    assert!(disk.list(Path::new("/old")).unwrap().is_empty());
    assert_eq!(disk.list(Path::new("/new")).unwrap().len(), 1);
}

#[test]
fn what_was_synced_in_a_directory_stays_there_when_the_name_was_another_ones_before() {
    let disk = SimulatedDisk::new(5);
    disk.create_dir(Path::new("/dir")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk.rename(Path::new("/dir"), Path::new("/old")).unwrap();
    disk.create_dir(Path::new("/dir")).unwrap();
    disk.create(Path::new("/dir/file")).unwrap();
    disk.sync_dir(Path::new("/dir")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    let disk = disk.power_cut();
    assert!(disk.list(Path::new("/old")).unwrap().is_empty());
    assert_eq!(disk.list(Path::new("/dir")).unwrap().len(), 1);
}

#[test]
fn nothing_is_done_under_a_locked_path_where_another_directory_is() {
    let home = tempfile::tempdir().unwrap();
    let (data, moved) = (home.path().join("data"), home.path().join("moved"));
    let disk = RealDisk::default();
    disk.create_dir(&data).unwrap();
    let _lock = disk.lock(&data.join(".lock")).unwrap();
    disk.create(&data.join("file")).unwrap();
    std::fs::rename(&data, &moved).unwrap();
    for is_replaced in [false, true] {
        if is_replaced {
            std::fs::create_dir(&data).unwrap();
        }
        let file = data.join("file");
        let refusals = [
            disk.open(&file).map(drop),
            disk.create(&file).map(drop),
            disk.len(&file).map(drop),
            disk.list(&data).map(drop),
            disk.create_dir(&data.join("dir")),
            disk.rename(&file, &data.join("other")),
            disk.remove_file(&file),
            disk.remove_dir(&data.join("dir")),
            disk.sync_dir(&data),
        ];
        for refused in refusals {
            let error = refused.unwrap_err();
            assert!(
                error.kind() == io::ErrorKind::Other && error.to_string().contains("was moved"),
                "{error}"
            );
        }
    }
    std::fs::remove_dir(&data).unwrap();
    std::fs::rename(&moved, &data).unwrap();
    disk.open(&data.join("file")).unwrap();
}

#[test]
fn a_lock_file_that_was_removed_lets_nobody_else_in() {
    let home = tempfile::tempdir().unwrap();
    let lock = home.path().join(".lock");
    let held = RealDisk::default().lock(&lock).unwrap();
    std::fs::remove_file(&lock).unwrap();
    let refused = RealDisk::default().lock(&lock).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
    drop(held);
    RealDisk::default().lock(&lock).unwrap();
}
