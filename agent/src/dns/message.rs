//! Messages on the wire: which questions are taken, and how an answer is made to fit.

use hickory_proto::op::{
    Edns, Header, Message, MessageType, Metadata, OpCode, Query, ResponseCode, emit_message_parts,
};
use hickory_proto::rr::{DNSClass, Record, RecordType};
use hickory_proto::serialize::binary::{BinEncoder, NameEncoding};

const HEADER_BYTES: usize = 12;
/// Over UDP without EDNS.
const UDP_BYTES: usize = 512;
/// What we announce and send at most to other hosts: fits any path without fragments.
const UDP_REMOTE_BYTES: usize = 1232;
/// The same on loopback.
const UDP_LOCAL_BYTES: usize = 4096;
const TCP_BYTES: usize = 65_535;
/// Of an empty OPT record.
const OPT_BYTES: usize = 11;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp { is_local: bool },
    Tcp,
}

/// A question that was understood.
#[derive(Debug, Clone)]
pub(super) struct Question {
    metadata: Metadata,
    pub(super) query: Query,
    edns: Option<Edns>,
}

/// What came in.
#[derive(Debug)]
pub(super) enum Incoming {
    Question(Box<Question>),
    /// To be answered with these bytes at once.
    Refused(Vec<u8>, ResponseCode),
    /// Not to be answered: nobody asked.
    Dropped,
}

/// What is answered, before it is made to fit.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Reply {
    pub(super) code: ResponseCode,
    pub(super) authoritative: bool,
    pub(super) answers: Vec<Record>,
    pub(super) authorities: Vec<Record>,
    /// In the order of the answers they belong to.
    pub(super) additionals: Vec<Record>,
}

impl Reply {
    pub(super) fn of(code: ResponseCode) -> Self {
        Self { code, authoritative: false, answers: vec![], authorities: vec![], additionals: vec![] }
    }
}

/// Limits on an answer that are not the wire's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Over UDP without EDNS; 0: none.
    pub(super) udp_answers: usize,
    /// Says so when something was left out, so that the client asks again over TCP.
    pub(super) truncate: bool,
    pub(super) compress: bool,
    pub(super) recursion: bool,
}

/// Reads a query. The header is looked at before anything is parsed, so that little work is done for what is refused.
pub(super) fn read(bytes: &[u8]) -> Incoming {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return Incoming::Dropped };
    if header[2] & 0x80 != 0 {
        return Incoming::Dropped;
    }
    let code = (header[2] >> 3) & 0x0f;
    let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    if code != 0 {
        return refused(header, ResponseCode::NotImp);
    }
    // An answer belongs to no question; IXFR alone has one record of authority, and OPT and a signature may follow.
    if count(4) != 1 || count(6) != 0 || count(8) > 1 || count(10) > 4 {
        return refused(header, ResponseCode::FormErr);
    }
    let Ok(message) = Message::from_vec(bytes) else { return refused(header, ResponseCode::FormErr) };
    let Some(query) = message.queries.into_iter().next() else {
        return refused(header, ResponseCode::FormErr);
    };
    let question = Question { metadata: message.metadata, query, edns: message.edns };
    let code = if question.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        ResponseCode::BADVERS
    } else if matches!(question.query.query_type, RecordType::AXFR | RecordType::IXFR) {
        ResponseCode::NotImp
    } else if !matches!(question.query.query_class, DNSClass::IN | DNSClass::ANY) {
        ResponseCode::Refused
    } else {
        return Incoming::Question(Box::new(question));
    };
    let limits = Limits { udp_answers: 0, truncate: false, compress: true, recursion: false };
    match write(&question, Reply::of(code), Transport::Tcp, limits) {
        Some(bytes) => Incoming::Refused(bytes, code),
        None => Incoming::Dropped,
    }
}

/// An answer that is a header and nothing else, for what could not be read.
fn refused(header: &[u8; HEADER_BYTES], code: ResponseCode) -> Incoming {
    let mut bytes = vec![0; HEADER_BYTES];
    bytes[..2].copy_from_slice(&header[..2]);
    // Response, the same operation, recursion desired as asked.
    bytes[2] = 0x80 | (header[2] & 0x79);
    bytes[3] = code.low();
    Incoming::Refused(bytes, code)
}

/// Writes the answer so that it fits the transport and what the client takes.
pub(super) fn write(
    question: &Question,
    mut reply: Reply,
    transport: Transport,
    limits: Limits,
) -> Option<Vec<u8>> {
    let max = question.max_bytes(transport);
    let mut is_cut = false;
    if max == UDP_BYTES && limits.udp_answers > 0 && reply.answers.len() > limits.udp_answers {
        reply.answers.truncate(limits.udp_answers);
        is_cut = true;
    }
    let edns = question.edns.as_ref().map(|asked| {
        let mut edns = Edns::new();
        let announced =
            if transport == (Transport::Udp { is_local: true }) { UDP_LOCAL_BYTES } else { UDP_REMOTE_BYTES };
        edns.set_max_payload(u16::try_from(announced).unwrap_or(u16::MAX));
        edns.set_dnssec_ok(asked.flags().dnssec_ok);
        edns
    });
    let mut metadata = question.metadata_of(&reply, limits);
    metadata.truncation = is_cut && limits.truncate;
    let whole = encode(&metadata, &question.query, &reply, edns.as_ref(), max, limits)?;
    if !has_less(&whole.1, &reply, edns.is_some()) {
        return Some(whole.0);
    }
    // Find out how much fits, then write exactly that: what cannot go along in addition is no loss to the answer.
    let room = max - if edns.is_some() { OPT_BYTES } else { 0 };
    let (_, fits) = encode(&metadata, &question.query, &reply, None, room, limits)?;
    let answers = usize::from(fits.counts.answers);
    is_cut |= answers < reply.answers.len() || usize::from(fits.counts.authorities) < reply.authorities.len();
    reply.answers.truncate(answers);
    reply.authorities.truncate(usize::from(fits.counts.authorities));
    reply.additionals.truncate(usize::from(fits.counts.additionals));
    metadata.truncation = is_cut && limits.truncate;
    encode(&metadata, &question.query, &reply, edns.as_ref(), max, limits).map(|(bytes, _)| bytes)
}

/// Whether the message holds fewer records than it should.
fn has_less(header: &Header, reply: &Reply, has_edns: bool) -> bool {
    usize::from(header.counts.answers) < reply.answers.len()
        || usize::from(header.counts.authorities) < reply.authorities.len()
        || usize::from(header.counts.additionals) < reply.additionals.len() + usize::from(has_edns)
}

fn encode(
    metadata: &Metadata,
    query: &Query,
    reply: &Reply,
    edns: Option<&Edns>,
    max: usize,
    limits: Limits,
) -> Option<(Vec<u8>, Header)> {
    let mut bytes = Vec::with_capacity(UDP_BYTES);
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(u16::try_from(max).unwrap_or(u16::MAX));
    if !limits.compress {
        encoder.set_name_encoding(NameEncoding::Uncompressed);
    }
    let header = emit_message_parts(
        metadata,
        &mut std::iter::once(query),
        &mut reply.answers.iter(),
        &mut reply.authorities.iter(),
        &mut reply.additionals.iter(),
        edns,
        None,
        &mut encoder,
    )
    .ok()?;
    Some((bytes, header))
}

impl Question {
    fn max_bytes(&self, transport: Transport) -> usize {
        let ours = match transport {
            Transport::Tcp => return TCP_BYTES,
            Transport::Udp { is_local: true } => UDP_LOCAL_BYTES,
            Transport::Udp { is_local: false } => UDP_REMOTE_BYTES,
        };
        let theirs = self.edns.as_ref().map_or(UDP_BYTES, |edns| usize::from(edns.max_payload()));
        theirs.clamp(UDP_BYTES, ours)
    }

    fn metadata_of(&self, reply: &Reply, limits: Limits) -> Metadata {
        let mut metadata = Metadata::new(self.metadata.id, MessageType::Response, OpCode::Query);
        metadata.recursion_desired = self.metadata.recursion_desired;
        metadata.checking_disabled = self.metadata.checking_disabled;
        metadata.recursion_available = limits.recursion;
        metadata.authoritative = reply.authoritative;
        metadata.response_code = reply.code;
        metadata
    }
}
