//! Which handler answers a path: a table of method and pattern, the most exact pattern first.
//!
//! `:name` stands for one segment, `*name` for all that remain (at least one), as ids may contain slashes; `**name`
//! also for nothing.

use http::{Method, StatusCode};

use super::answer::Failure;
use super::request::decode_segment;

/// One line of the table; `T` is the handler.
#[derive(Debug, Clone)]
pub(super) struct Route<T> {
    pub(super) method: Method,
    /// Below `/v1/`.
    pub(super) pattern: &'static str,
    pub(super) handler: T,
}

/// What became of a path.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a, T> {
    Handler(&'a T, Vec<String>),
    /// The path exists, but not for this method.
    Methods(String),
}

pub(super) fn find<'a, T>(
    routes: &'a [Route<T>],
    method: &Method,
    path: &str,
) -> Result<Found<'a, T>, Failure> {
    let unknown =
        || Failure::new(StatusCode::NOT_FOUND, format!("Invalid URL path: no such endpoint: {path}"));
    let rest = path.strip_prefix("/v1/").ok_or_else(unknown)?;
    let segments: Vec<&str> = rest.split('/').collect();
    let best = routes
        .iter()
        .filter(|route| captures(route.pattern, &segments).is_some())
        .map(|route| route.pattern)
        .min_by_key(|pattern| looseness(pattern))
        .ok_or_else(unknown)?;
    let same: Vec<&Route<T>> = routes.iter().filter(|route| route.pattern == best).collect();
    let wanted = if *method == Method::HEAD { &Method::GET } else { method };
    let Some(route) = same.iter().find(|route| route.method == *wanted) else {
        let allowed: Vec<&str> =
            std::iter::once("OPTIONS").chain(same.iter().map(|route| route.method.as_str())).collect();
        return Ok(Found::Methods(allowed.join(",")));
    };
    let captured = captures(best, &segments).unwrap_or_default();
    let parameters = captured.iter().map(|text| decode_segment(text)).collect::<Result<_, _>>()?;
    Ok(Found::Handler(&route.handler, parameters))
}

/// What the placeholders of `pattern` stand for, if it matches.
fn captures(pattern: &str, segments: &[&str]) -> Option<Vec<String>> {
    let mut captured = Vec::new();
    let mut at = 0;
    for part in pattern.split('/') {
        if part.starts_with('*') {
            let rest = segments.get(at..)?.join("/");
            return (!rest.is_empty() || part.starts_with("**")).then(|| {
                captured.push(rest);
                captured
            });
        }
        let segment = *segments.get(at)?;
        if part.starts_with(':') {
            if segment.is_empty() {
                return None;
            }
            captured.push(segment.to_owned());
        } else if part != segment {
            return None;
        }
        at += 1;
    }
    (at == segments.len()).then_some(captured)
}

/// Patterns compare segment by segment: a literal before `:name` before `*name`.
fn looseness(pattern: &str) -> Vec<u8> {
    pattern
        .split('/')
        .map(|part| match part.as_bytes().first() {
            Some(b'*') => 2,
            Some(b':') => 1,
            _ => 0,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Vec<Route<&'static str>> {
        let route = |method, pattern, handler| Route { method, pattern, handler };
        vec![
            route(Method::GET, "agent/service/*id", "one"),
            route(Method::PUT, "agent/service/register", "register"),
            route(Method::PUT, "agent/service/deregister/*id", "deregister"),
            route(Method::GET, "config/:kind/:name", "get"),
            route(Method::DELETE, "config/:kind/:name", "delete"),
            route(Method::GET, "config/:kind", "list"),
            route(Method::GET, "tree/**key", "tree"),
        ]
    }

    fn handler(method: Method, path: &str) -> Option<(&'static str, Vec<String>)> {
        match find(&table(), &method, path).ok()? {
            Found::Handler(handler, parameters) => Some((*handler, parameters)),
            Found::Methods(_) => None,
        }
    }

    #[test]
    fn the_most_exact_pattern_answers() {
        let one = |text: &str| vec![text.to_owned()];
        assert_eq!(handler(Method::GET, "/v1/agent/service/web"), Some(("one", one("web"))));
        assert_eq!(handler(Method::GET, "/v1/agent/service/a/b"), Some(("one", one("a/b"))));
        assert_eq!(handler(Method::GET, "/v1/agent/service/a%2Fb"), Some(("one", one("a/b"))));
        assert_eq!(handler(Method::PUT, "/v1/agent/service/register"), Some(("register", vec![])));
        assert_eq!(handler(Method::PUT, "/v1/agent/service/deregister/x"), Some(("deregister", one("x"))));
        assert_eq!(handler(Method::GET, "/v1/config/a/b"), Some(("get", vec!["a".into(), "b".into()])));
        assert_eq!(handler(Method::HEAD, "/v1/config/a"), Some(("list", one("a"))));
        for (path, key) in [("tree", ""), ("tree/", ""), ("tree/a", "a"), ("tree/a//b/", "a//b/")] {
            assert_eq!(handler(Method::GET, &format!("/v1/{path}")), Some(("tree", one(key))), "{path}");
        }
    }

    #[test]
    fn unknown_paths_are_not_found() {
        for path in [
            "/",
            "/v1",
            "/v1/",
            "/v1/kv/x",
            "/v1/agent/service/",
            "/v2/config/a",
            "/v1/config//b",
            "/v1/config/a/b/c",
        ] {
            let status = find(&table(), &Method::GET, path).err().map(|failure| failure.status);
            assert_eq!(status, Some(StatusCode::NOT_FOUND), "{path}");
        }
    }

    #[test]
    fn a_wrong_method_learns_the_right_ones() {
        let table = table();
        let found = find(&table, &Method::POST, "/v1/config/a/b").unwrap();
        assert_eq!(found, Found::Methods("OPTIONS,GET,DELETE".into()));
        let found = find(&table, &Method::GET, "/v1/agent/service/register").unwrap();
        assert_eq!(found, Found::Methods("OPTIONS,PUT".into()));
    }
}
