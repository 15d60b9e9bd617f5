//! Memory for output between sends.

use crate::limits::{OUTPUT_KEEP_BYTES_MAX, OUTPUT_START_BYTES, OUTPUTS_KEPT_BYTES_MAX};
use crate::wire::output::Output;

/// Memory for output that nobody uses at the moment. Taken for the length of a turn, or of a send;
/// so there is as much of it as sends are in flight, not as there are connections.
#[derive(Debug, Default)]
pub(crate) struct SpareOutputs {
    outputs: Vec<Output>,
    bytes: usize,
}

impl SpareOutputs {
    #[inline]
    pub(crate) fn take(&mut self) -> Output {
        match self.outputs.pop() {
            Some(output) => {
                self.bytes -= output.capacity();
                output
            }
            None => Output::with_capacity(OUTPUT_START_BYTES),
        }
    }

    #[inline]
    pub(crate) fn keep(&mut self, mut output: Output) {
        output.clear(OUTPUT_KEEP_BYTES_MAX);
        let bytes = output.capacity();
        if bytes > 0 && self.bytes + bytes <= OUTPUTS_KEPT_BYTES_MAX {
            self.bytes += bytes;
            self.outputs.push(output);
        }
    }

    pub(crate) fn extend(&mut self, unused: Option<Output>) {
        if let Some(output) = unused {
            self.keep(output);
        }
    }
}
