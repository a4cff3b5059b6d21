use purlin_model::identity::TrustDomain;
use purlin_model::node::NodeRole;

use super::{JoinTokenText, PREFIX, Secret, TEXT_BYTES, TokenError};

fn token() -> JoinTokenText {
    JoinTokenText {
        servers: vec!["10.0.0.1:8300".into(), "server-2.example.com:8300".into()],
        ca_fingerprint: [0xab; 32],
        trust_domain: TrustDomain("11111111-2222-3333-4444-555555555555.mesh.internal".into()),
        role: NodeRole::Agent,
        id: "6f1d".into(),
        secret: Secret::new("s3cret"),
    }
}

fn error(text: &str) -> TokenError {
    match JoinTokenText::decode(text) {
        Ok(_) => panic!("{text} was taken"),
        Err(error) => error,
    }
}

#[test]
fn a_token_reads_back_and_blanks_around_it_do_no_harm() {
    let text = token().encode().unwrap();
    assert!(text.starts_with(PREFIX), "{text}");
    assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)), "{text}");
    assert!(JoinTokenText::decode(&text).unwrap() == token());
    assert!(JoinTokenText::decode(&format!("  {text}\n")).unwrap() == token());
}

#[test]
fn a_token_cut_anywhere_is_said_to_be_cut() {
    let text = token().encode().unwrap();
    for cut in PREFIX.len() - 3..text.len() {
        let error = error(&text[..cut]);
        assert!(matches!(error, TokenError::Truncated { .. }), "cut at {cut}: {error}");
    }
    let TokenError::Truncated { found, whole } = error(&text[..60]) else { panic!("not truncated") };
    assert_eq!((found, whole), (60, text.len()));
}

#[test]
fn a_token_changed_anywhere_is_refused() {
    let text = token().encode().unwrap();
    for at in PREFIX.len()..text.len() - 1 {
        for other in ["A", "b", "_", "9"] {
            let mut changed = text.clone();
            changed.replace_range(at..=at, other);
            if changed != text {
                assert!(JoinTokenText::decode(&changed).is_err(), "changed at {at}");
            }
        }
    }
}

#[test]
fn what_is_wrong_is_told_apart() {
    let text = token().encode().unwrap();
    for other in ["", "hello", "purlin", "eyJhbGciOi.J9.x", "purlin-join-x.AAAA", "purlin-join-v0.AAAA"] {
        assert_eq!(error(other), TokenError::NotAToken, "{other}");
    }
    assert_eq!(error("purlin-join-v2.AAAA"), TokenError::Newer("2".into()));
    assert!(matches!(error(&format!("{text}AAAA")), TokenError::Damaged(_)));
    assert!(matches!(error(&text.replace('.', ".!")), TokenError::Damaged(_)));
    assert!(matches!(error(&format!("{PREFIX}{}", "A".repeat(TEXT_BYTES))), TokenError::Damaged(_)));
    assert!(matches!(error("purlin-join-v1.ä"), TokenError::Damaged(_)));
}

#[test]
fn errors_are_one_line_and_never_show_the_token() {
    let text = token().encode().unwrap();
    for wrong in [&text[..40], &format!("{text}A"), "nonsense"] {
        let said = error(wrong).to_string();
        assert!(!said.contains('\n') && !said.contains(&text[20..30]), "{said}");
    }
}

#[test]
fn secrets_differ_and_are_compared_by_digest() {
    let (one, other) = (Secret::generate().unwrap(), Secret::generate().unwrap());
    assert!(one != other);
    assert_eq!(one.sha256(), Secret::sha256_of(one.expose()));
    assert_eq!(one.sha256().len(), 32);
}
