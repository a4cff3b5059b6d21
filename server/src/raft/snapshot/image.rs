//! The bytes of a snapshot file. Little endian: `PURLSNAP`, version (1 byte), length of the head (4), head, length of
//! the state (8), state, CRC32 of all before.
//!
//! Written and verified in bounded memory, however large the state is.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};

const MAGIC: &[u8; 8] = b"PURLSNAP";
pub(super) const VERSION: u8 = 1;
const HEAD_BYTES: usize = 1024 * 1024;
/// Before the head; between head and state; behind the state.
const START_BYTES: usize = MAGIC.len() + 1 + 4;
const LENGTH_BYTES: usize = 8;
const SUM_BYTES: usize = 4;
const BUFFER_BYTES: usize = 256 * 1024;

/// Writes the state somewhere.
pub(super) type Encode<'a> = &'a dyn Fn(&mut dyn Write) -> io::Result<()>;

/// Counts and sums what passes through.
struct Tally<W> {
    out: W,
    bytes: u64,
    hasher: crc32fast::Hasher,
}

impl<W: Write> Tally<W> {
    fn new(out: W) -> Self {
        Self { out, bytes: 0, hasher: crc32fast::Hasher::new() }
    }
}

impl<W: Write> Write for Tally<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.bytes += bytes.len() as u64;
        self.hasher.update(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn start(head: &[u8], state_bytes: u64) -> io::Result<Vec<u8>> {
    let head_bytes = u32::try_from(head.len()).map_err(io::Error::other)?;
    let mut start = Vec::with_capacity(START_BYTES + head.len() + LENGTH_BYTES);
    start.extend_from_slice(MAGIC);
    start.push(VERSION);
    start.extend_from_slice(&head_bytes.to_le_bytes());
    start.extend_from_slice(head);
    start.extend_from_slice(&state_bytes.to_le_bytes());
    Ok(start)
}

/// The bytes that `state` writes.
pub(super) fn count(state: Encode<'_>) -> io::Result<u64> {
    struct Count(u64);
    impl Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len() as u64;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    state(&mut count)?;
    Ok(count.0)
}

pub(super) fn length(head: &[u8], state_bytes: u64) -> u64 {
    (START_BYTES + head.len() + LENGTH_BYTES + SUM_BYTES) as u64 + state_bytes
}

/// Writes an image to a file. The length of the state stands before it but is known behind it.
pub(super) fn write(mut file: &File, head: &[u8], state: Encode<'_>) -> io::Result<()> {
    file.write_all(&start(head, 0)?)?;
    let mut out = Tally::new(BufWriter::with_capacity(BUFFER_BYTES, file));
    state(&mut out)?;
    out.flush()?;
    let Tally { bytes, hasher: of_state, .. } = out;
    let start = start(head, bytes)?;
    let mut sum = crc32fast::Hasher::new();
    sum.update(&start);
    sum.combine(&of_state);
    file.write_all(&sum.finalize().to_le_bytes())?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&start)
}

/// Writes an image where nothing can be written twice; `state_bytes` are what `state` will write.
pub(super) fn write_forward(
    out: &mut dyn Write,
    head: &[u8],
    state_bytes: u64,
    state: Encode<'_>,
) -> io::Result<()> {
    let mut out = Tally::new(BufWriter::with_capacity(BUFFER_BYTES, out));
    out.write_all(&start(head, state_bytes)?)?;
    state(&mut out)?;
    let sum = out.hasher.clone().finalize();
    out.write_all(&sum.to_le_bytes())?;
    out.flush()
}

/// What a whole image holds.
pub(super) struct Found {
    pub(super) head: Vec<u8>,
    pub(super) bytes: u64,
    pub(super) state_at: u64,
    pub(super) state_bytes: u64,
    pub(super) state_crc32: u32,
}

/// Why it is none.
pub(super) enum Refused {
    Io(io::Error),
    Corrupt(&'static str),
    Version(u8),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Corrupt("it is too short"),
            _ => Self::Io(error),
        }
    }
}

/// Reads all of it. A wrong sum is told before a version that is not known: it may be the version that is damaged.
pub(super) fn verify(file: &File) -> Result<Found, Refused> {
    let total = file.metadata()?.len();
    let mut input = io::BufReader::with_capacity(BUFFER_BYTES, file);
    let mut start = [0; START_BYTES];
    let too_short = total < (START_BYTES + LENGTH_BYTES + SUM_BYTES) as u64;
    if too_short {
        return Err(Refused::Corrupt("it is too short"));
    }
    input.read_exact(&mut start)?;
    let [magic @ .., version, h0, h1, h2, h3] = start;
    if magic != *MAGIC {
        return Err(Refused::Corrupt("it does not begin as a snapshot"));
    }
    let head_bytes = usize::try_from(u32::from_le_bytes([h0, h1, h2, h3])).unwrap_or(usize::MAX);
    let rest = total - (START_BYTES + LENGTH_BYTES + SUM_BYTES) as u64;
    if version == VERSION && (head_bytes > HEAD_BYTES || head_bytes as u64 > rest) {
        return Err(Refused::Corrupt("its lengths do not fit"));
    }
    let head_bytes = head_bytes.min(HEAD_BYTES).min(usize::try_from(rest).unwrap_or(HEAD_BYTES));
    let mut head = vec![0; head_bytes];
    input.read_exact(&mut head)?;
    let mut length = [0; LENGTH_BYTES];
    input.read_exact(&mut length)?;
    let state_bytes = rest - head_bytes as u64;
    let (mut of_all, mut of_state) = (crc32fast::Hasher::new(), crc32fast::Hasher::new());
    [&start[..], &head, &length].iter().for_each(|part| of_all.update(part));
    hash(&mut input, state_bytes, &mut of_state)?;
    of_all.combine(&of_state);
    let mut sum = [0; SUM_BYTES];
    input.read_exact(&mut sum)?;
    if of_all.finalize() != u32::from_le_bytes(sum) {
        return Err(Refused::Corrupt("its checksum is wrong"));
    }
    if version != VERSION {
        return Err(Refused::Version(version));
    }
    if u64::from_le_bytes(length) != state_bytes {
        return Err(Refused::Corrupt("its lengths do not fit"));
    }
    let state_at = (START_BYTES + head_bytes + LENGTH_BYTES) as u64;
    Ok(Found { head, bytes: total, state_at, state_bytes, state_crc32: of_state.finalize() })
}

fn hash(input: &mut impl Read, mut left: u64, hasher: &mut crc32fast::Hasher) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    while left > 0 {
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = input.read(&mut buffer[..most])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        hasher.update(&buffer[..read]);
        left -= read as u64;
    }
    Ok(())
}
