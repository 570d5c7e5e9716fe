//! Message data: every split gives the same message, and only CR LF dot CR LF ends it.
#![no_main]

use chapar::smtp::data::{Decoder, LineEnds};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&cut, stream)) = data.split_first() else {
        return;
    };
    let mut whole = Decoder::default();
    let mut body = Vec::new();
    let used = whole.decode(stream, &mut body);
    let mut parted = Decoder::default();
    let mut again = Vec::new();
    let mut total = 0;
    for part in stream.chunks(usize::from(cut).max(1)) {
        total += parted.decode(part, &mut again);
    }
    assert_eq!((used, &body), (total, &again));
    assert_eq!(whole.ended(), parted.ended());
    assert_eq!(whole.saw_bare_line_end(), parted.saw_bare_line_end());
    let first = stream.starts_with(b".\r\n");
    let end = stream.windows(5).position(|five| five == b"\r\n.\r\n");
    assert_eq!(whole.ended(), first || end.is_some());
    if let (false, Some(end)) = (first, end) {
        assert_eq!(used, end + 5);
    }
    let mut ends = LineEnds::default();
    ends.watch(stream);
    let mut others = LineEnds::default();
    stream.chunks(usize::from(cut).max(1)).for_each(|part| others.watch(part));
    assert_eq!((ends.saw_bare(), ends.is_open()), (others.saw_bare(), others.is_open()));
});
