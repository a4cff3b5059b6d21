//! The second reading of a path that an application could take: decoded, with dots and doubled slashes resolved.

/// `None` where the path has only one reading.
pub(super) fn normal_form(path: &str) -> Option<String> {
    let plain = !path.contains(['%', '\\', ';']) && !path.contains("//") && !path.contains("/.");
    if plain {
        return None;
    }
    let decoded = decode(path);
    let mut kept: Vec<&str> = Vec::new();
    let mut ends_open = false;
    for segment in decoded.split(['/', '\\']) {
        // Some servers cut parameters (`..;a=b`) off before they look at a segment.
        let bare = segment.split(';').next().unwrap_or_default();
        ends_open = matches!(bare, "" | "." | "..");
        match bare {
            "" | "." => {}
            ".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
    }
    let mut normal = format!("/{}", kept.join("/"));
    if ends_open && normal.len() > 1 {
        normal.push('/');
    }
    (normal != path).then_some(normal)
}

/// Decodes what means the same without its escape (RFC 3986, 6.2.2.2), and what separates segments.
fn decode(path: &str) -> String {
    let bytes = path.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escaped = if byte == b'%' { bytes.get(at + 1..at + 3) } else { None };
        let value = escaped
            .and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok())
            .filter(|value| value.is_ascii_alphanumeric() || b"-._~/\\".contains(value));
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
        for path in ["/", "/a", "/a/b.c", "/a/", "*"] {
            assert_eq!(normal_form(path), None, "{path}");
        }
        for path in ["/a%20b", "/a;b=c", "/caf%C3%A9"] {
            assert_eq!(normal_form(path), None, "{path}");
        }
    }

    #[test]
    fn disguised_paths_are_seen_through() {
        for (path, normal) in [
            ("/public/../admin", "/admin"),
            ("/public/%2e%2e/admin", "/admin"),
            ("/public/%2E%2e%2Fadmin", "/admin"),
            ("//admin", "/admin"),
            ("/./admin/.", "/admin/"),
            ("/public/..;x=1/admin", "/admin"),
            ("/public/..\\admin", "/admin"),
            ("/%61dmin", "/admin"),
            ("/../..", "/"),
            ("/a/..", "/"),
            ("/a//", "/a/"),
        ] {
            assert_eq!(normal_form(path).as_deref(), Some(normal), "{path}");
        }
    }

    #[test]
    fn broken_escapes_stay_as_they_are() {
        assert_eq!(normal_form("/a%zz"), None);
        assert_eq!(normal_form("/a%2"), None);
        assert_eq!(normal_form("/%é/."), Some("/%é/".into()));
    }
}
