//! A file as the body of a request.

use std::fs::File;
use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// Sent at once.
const PIECE_BYTES: u64 = 256 * 1024;

/// Read a piece at a time: this process has nothing else to do meanwhile.
pub(super) struct FileBody {
    pub(super) file: File,
    pub(super) left: u64,
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let most = self.left.min(PIECE_BYTES);
        let mut piece = Vec::new();
        let read = Read::by_ref(&mut self.file).take(most).read_to_end(&mut piece);
        let ended = || io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter");
        Poll::Ready(Some(match read {
            Ok(0) => Err(ended()),
            Ok(read) => {
                self.left -= read as u64;
                Ok(Frame::data(Bytes::from(piece)))
            }
            Err(error) => Err(error),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
