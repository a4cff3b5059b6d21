//! The other readings of a path that an application could take: decoded, with dots and doubled slashes resolved, and
//! without the parameters of its segments.
//!
//! Case counts, as in Consul: an application that does not care for it needs a rule that does not either.

/// Escapes within escapes are undone so often; a path that has more of them is read as far as this.
const PASSES: usize = 4;

/// Empty where the path has only one reading, which is the common case and costs nothing.
pub(super) fn readings(path: &str) -> Vec<String> {
    let plain = !path.contains(['%', '\\', ';']) && !path.contains("//") && !path.contains("/.");
    if plain {
        return Vec::new();
    }
    let once = resolve(&decode(path, b"-._~/\\"), Parameters::Kept);
    let mut deep = path.to_owned();
    for _ in 0..PASSES {
        let next = decode(&deep, b"-._~/\\%;");
        if next == deep {
            break;
        }
        deep = next;
    }
    let mut readings: Vec<String> = Vec::new();
    for reading in [once, resolve(&deep, Parameters::Kept), resolve(&deep, Parameters::Dropped)] {
        if reading != path && !readings.contains(&reading) {
            readings.push(reading);
        }
    }
    readings
}

/// What follows a `;` in a segment: some servers cut it off before they look where the path leads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Parameters {
    Kept,
    Dropped,
}

fn resolve(path: &str, parameters: Parameters) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut ends_open = false;
    for segment in path.split(['/', '\\']) {
        let bare = segment.split(';').next().unwrap_or_default();
        ends_open = matches!(bare, "" | "." | "..");
        match bare {
            "" | "." => {}
            ".." => drop(kept.pop()),
            _ if parameters == Parameters::Kept => kept.push(segment),
            _ => kept.push(bare),
        }
    }
    let mut normal = format!("/{}", kept.join("/"));
    if ends_open && normal.len() > 1 {
        normal.push('/');
    }
    normal
}

/// Undoes the escapes of letters, digits (RFC 3986, 6.2.2.2) and `marks`.
fn decode(path: &str, marks: &[u8]) -> String {
    let bytes = path.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escaped = if byte == b'%' { bytes.get(at + 1..at + 3) } else { None };
        let value = escaped
            .and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok())
            .filter(|value| value.is_ascii_alphanumeric() || marks.contains(value));
        out.push(value.unwrap_or(byte));
        at += if value.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_paths_have_one_reading() {
        for path in ["/", "/a", "/a/b.c", "/a/", "*", "/a%20b", "/caf%C3%A9", "/a%zz", "/a%2"] {
            assert!(readings(path).is_empty(), "{path}");
        }
    }

    #[test]
    fn disguised_paths_are_seen_through() {
        for (path, reading) in [
            ("/public/../admin", "/admin"),
            ("/public/%2e%2e/admin", "/admin"),
            ("/public/%2E%2e%2Fadmin", "/admin"),
            ("//admin", "/admin"),
            ("/./admin/.", "/admin/"),
            ("/public/..;x=1/admin", "/admin"),
            ("/public/..\\admin", "/admin"),
            ("/%61dmin", "/admin"),
            ("/%2561dmin", "/admin"),
            ("/x/%25252e%25252e/admin", "/admin"),
            ("/admin;x=1", "/admin"),
            ("/admin%3Bx", "/admin"),
            ("/a;b/c;d", "/a/c"),
            ("/x/../a;v=1", "/a;v=1"),
            ("/../..", "/"),
            ("/a/..", "/"),
            ("/a//", "/a/"),
            ("/%é/.", "/%é/"),
        ] {
            let readings = readings(path);
            assert!(readings.iter().any(|one| one == reading), "{path}: {readings:?}");
        }
    }

    #[test]
    fn escapes_without_end_take_bounded_work() {
        let path = format!("/{}61", "%25".repeat(10_000));
        assert!(readings(&path).iter().all(|one| one.len() <= path.len()));
    }
}
