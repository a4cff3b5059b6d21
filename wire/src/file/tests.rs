use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::{
    FileError, load, load_json, load_secret, private_directory, remove, save, save_json, save_plain,
};

fn mode(path: &std::path::Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_file_reads_back_and_is_private_and_leaves_nothing_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registry");
    for body in [&b"one"[..], b"", b"another"] {
        save(&path, 3, body).unwrap();
        let loaded = load(&path, 3).unwrap();
        assert_eq!((loaded.version, loaded.body.as_slice()), (3, body));
    }
    assert_eq!(mode(&path), 0o600);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_missing_file_is_told_from_a_broken_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("view");
    assert!(load(&path, 1).unwrap_err().is_missing());
    assert!(load_json::<String>(&path, 1).unwrap_err().is_missing());
    assert!(load_secret(&path).unwrap_err().is_missing());
    remove(&path).unwrap();
}

#[test]
fn every_damage_is_found_and_names_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("view");
    save(&path, 1, b"some content").unwrap();
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x40;
        fs::write(&path, &damaged).unwrap();
        let error = load(&path, 1).unwrap_err();
        let known = matches!(error, FileError::Corrupt { .. } | FileError::Newer { .. });
        assert!(known && error.to_string().contains("view"), "at {at}: {error}");
    }
    for cut in 0..whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        assert!(matches!(load(&path, 1), Err(FileError::Corrupt { .. })), "cut at {cut}");
    }
}

#[test]
fn a_newer_file_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("view");
    save(&path, 2, b"x").unwrap();
    assert!(matches!(load(&path, 1), Err(FileError::Newer { found: 2, known: 1, .. })));
    save_json(&path, 5, &"x").unwrap();
    assert!(matches!(load_json::<String>(&path, 4), Err(FileError::Newer { found: 5, known: 4, .. })));
}

#[test]
fn json_reads_back_and_a_changed_value_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.json");
    save_json(&path, 1, &vec!["b", "a"]).unwrap();
    assert_eq!(load_json::<Vec<String>>(&path, 1).unwrap(), ["b", "a"]);
    let text = fs::read_to_string(&path).unwrap();
    // Layout is free, content is not.
    fs::write(&path, text.replace('\n', "")).unwrap();
    assert!(load_json::<Vec<String>>(&path, 1).is_ok());
    fs::write(&path, text.replace("\"a\"", "\"c\"")).unwrap();
    assert!(matches!(load_json::<Vec<String>>(&path, 1), Err(FileError::Corrupt { .. })));
}

#[test]
fn an_interrupted_write_leaves_the_old_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registry");
    save(&path, 1, b"old").unwrap();
    // What a crash before the rename leaves behind, with a mode of its own.
    let temporary = dir.path().join(".registry.new");
    fs::write(&temporary, b"half").unwrap();
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(load(&path, 1).unwrap().body, b"old");
    save(&path, 1, b"new").unwrap();
    assert_eq!(load(&path, 1).unwrap().body, b"new");
    assert_eq!(mode(&path), 0o600);
    assert!(!temporary.exists());
}

#[test]
fn a_secret_that_others_may_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.pem");
    save_plain(&path, b"key").unwrap();
    assert_eq!(load_secret(&path).unwrap(), b"key");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let error = load_secret(&path).unwrap_err();
    assert!(matches!(error, FileError::Exposed { .. }) && error.to_string().contains("640"), "{error}");
}

#[test]
fn directories_are_closed_to_others() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b");
    private_directory(&path).unwrap();
    assert_eq!(mode(&path), 0o700);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    private_directory(&path).unwrap();
    assert_eq!(mode(&path), 0o700);
}

#[test]
fn the_form_of_files_is_fixed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("view");
    save(&path, 0x0102, b"123456789").unwrap();
    // The checksum is the well-known one of these nine digits.
    let then = b"PURLIN\r\n\x01\x02\xcb\xf4\x39\x26\0\0\0\0\0\0\0\x09123456789";
    assert_eq!(fs::read(&path).unwrap(), then);
}
