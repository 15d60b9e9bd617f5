//! What can be submitted to a [`Ring`], one function an operation.
//!
//! Every function is safe: memory is moved in and comes back with the completion. A file
//! descriptor must stay open until the operation has completed; if it does not, the operation
//! meets whatever file has taken its number.

use super::in_flight::{Landed, Memory, SocketAddress, Ticket};
use super::ring::{BUFFER_GROUP, CALLERS, DESCRIPTOR, MUTE, Ring, USER_DATA_BITS, WAKE};
use crate::driver::{FileBuffer, Output};
use io_uring::types::{Fd, FsyncFlags, Timespec};
use io_uring::{opcode, squeue};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The most bytes that one operation moves: results are 32-bit and signed.
const TRANSFER_BYTES_MAX: usize = 1 << 30;

/// Whether an operation completes once, or again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shots {
    /// It completes once and must be submitted again.
    One,
    /// It goes on completing until a completion says that there will be no more.
    Many,
}

/// How a send deals with a full socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Sends what fits at once. Over when the kernel was entered; see [`super::ring`].
    Eager,
    /// Waits until everything was sent.
    Patient,
}

/// What to cancel.
#[derive(Clone, Copy, Debug)]
pub enum Cancel {
    /// An operation without memory, by the `user_data` that it was submitted with.
    Plain(u64),
    /// A receive or an accept, likewise.
    Descriptor(u64),
    /// An operation with memory.
    Memory(Ticket),
}

impl Ring {
    /// Accepts connections on a listening socket, each told as a descriptor.
    pub fn accept(&mut self, listener: BorrowedFd<'_>, shots: Shots, user_data: u64) {
        let listener = Fd(listener.as_raw_fd());
        let entry = match shots {
            Shots::One => {
                let nowhere = (std::ptr::null_mut(), std::ptr::null_mut());
                opcode::Accept::new(listener, nowhere.0, nowhere.1)
                    .flags(libc::SOCK_CLOEXEC)
                    .build()
            }
            Shots::Many => opcode::AcceptMulti::new(listener).flags(libc::SOCK_CLOEXEC).build(),
        };
        // SAFETY: no memory is named: the peer's address is not asked for.
        unsafe { self.push_plain(entry, CALLERS | DESCRIPTOR, user_data) };
    }

    /// Receives from a socket, each time into a buffer of the buffer ring.
    pub fn receive(&mut self, socket: BorrowedFd<'_>, shots: Shots, user_data: u64) {
        let socket = Fd(socket.as_raw_fd());
        let entry = match shots {
            Shots::One => {
                let length = self.buffers().pool().buffer_bytes();
                opcode::Recv::new(socket, std::ptr::null_mut(), length)
                    .buf_group(BUFFER_GROUP)
                    .build()
                    .flags(squeue::Flags::BUFFER_SELECT)
            }
            Shots::Many => opcode::RecvMulti::new(socket, BUFFER_GROUP).build(),
        };
        // SAFETY: no memory is named: the kernel picks a buffer from the ring, which outlives it.
        unsafe { self.push_plain(entry, CALLERS, user_data) };
    }

    /// Receives from a socket once, behind the bytes of `memory`: what there is room for in its
    /// capacity, but no more than `bytes_max`. The result is the count of bytes.
    pub fn receive_into(
        &mut self,
        socket: BorrowedFd<'_>,
        memory: Vec<u8>,
        bytes_max: usize,
        user_data: u64,
    ) -> Ticket {
        let ticket = self.in_flight.board(Memory::Body(memory), checked(user_data));
        let Memory::Body(memory) = self.in_flight.memory_mut(ticket) else {
            unreachable!("boarded a line above");
        };
        let room = memory.spare_capacity_mut();
        let bytes = room.len().min(bytes_max).min(TRANSFER_BYTES_MAX) as u32;
        let entry = opcode::Recv::new(Fd(socket.as_raw_fd()), room.as_mut_ptr().cast(), bytes);
        // SAFETY: the spare capacity is heap memory, in flight until this completes.
        unsafe { self.push_boarded(entry.build(), ticket) };
        ticket
    }

    /// The memory of a receive that has ended, longer by the `received` bytes of its result.
    ///
    /// # Panics
    /// If it is not memory that was received into, or has no room for so many bytes.
    pub fn take_body(&mut self, landed: Landed, received: usize) -> Vec<u8> {
        let Memory::Body(mut memory) = self.in_flight.take(landed) else {
            panic!("only bodies are received into");
        };
        let room = memory.capacity() - memory.len();
        assert!(received <= room, "{received} bytes were received into {room}");
        // SAFETY: the kernel has written so many bytes behind the ones that there were, and they
        // lie within the capacity.
        unsafe { memory.set_len(memory.len() + received) };
        memory
    }

    /// Ends this ring's sleep whenever `file` becomes readable. Told only when it no longer does.
    pub fn poll_readable(&mut self, file: BorrowedFd<'_>, user_data: u64) {
        let entry = opcode::PollAdd::new(Fd(file.as_raw_fd()), libc::POLLIN as u32);
        // SAFETY: no memory is named.
        unsafe { self.push_plain(entry.multi(true).build(), CALLERS | WAKE, user_data) };
    }

    /// Ends this ring's sleep after a while, and is told then.
    pub fn timeout(&mut self, after: &'static Timespec, user_data: u64) {
        // SAFETY: the time is named for ever.
        unsafe { self.push_plain(opcode::Timeout::new(after).build(), CALLERS, user_data) };
    }

    /// Makes what was completed of `file` durable, without metadata that reading does not need.
    pub fn sync(&mut self, file: BorrowedFd<'_>, user_data: u64) {
        let entry = opcode::Fsync::new(Fd(file.as_raw_fd())).flags(FsyncFlags::DATASYNC);
        // SAFETY: no memory is named.
        unsafe { self.push_plain(entry.build(), CALLERS, user_data) };
    }

    /// Asks the kernel to end an operation, which then completes as cancelled, unless it has ended
    /// by itself in the meantime. Nothing is told of the request itself.
    pub fn cancel(&mut self, what: Cancel) {
        let target = match what {
            Cancel::Plain(user_data) => CALLERS | checked(user_data),
            Cancel::Descriptor(user_data) => CALLERS | DESCRIPTOR | checked(user_data),
            Cancel::Memory(ticket) => ticket.user_data(),
        };
        let entry = opcode::AsyncCancel::new(target).build();
        let entry = self.without_success(entry).user_data(CALLERS | MUTE);
        // SAFETY: no memory is named.
        unsafe { self.push(&entry) };
    }

    /// Wakes the owner of another ring. Only a failure is told, as `user_data`.
    pub fn message(&mut self, ring: BorrowedFd<'_>, user_data: u64) {
        // To come is all that the message has to do.
        let on_arrival = CALLERS | MUTE | WAKE;
        let entry = opcode::MsgRingData::new(Fd(ring.as_raw_fd()), 0, on_arrival, None).build();
        let entry = self.without_success(entry).user_data(CALLERS | MUTE | checked(user_data));
        // SAFETY: no memory is named.
        unsafe { self.push(&entry) };
    }

    /// Sends `output`. The result is the count of bytes sent, short if the error came later.
    pub fn send(
        &mut self,
        socket: BorrowedFd<'_>,
        output: Output,
        patience: Patience,
        user_data: u64,
    ) -> Ticket {
        let memory = Memory::Output { output, sent: 0 };
        let ticket = self.in_flight.board(memory, checked(user_data));
        self.submit_send(socket, ticket, patience);
        ticket
    }

    /// Notes that `sent` more bytes of a landed output were sent; answers how many are left.
    ///
    /// # Panics
    /// If it is not an output, or more was sent than there was.
    pub fn count_sent(&mut self, landed: &Landed, sent: usize) -> usize {
        let Memory::Output { output, sent: total } = self.in_flight.landed_mut(landed) else {
            panic!("only outputs are sent");
        };
        *total += sent;
        output.len().checked_sub(*total).expect("no more is sent than was asked for")
    }

    /// Sends what is left of a landed output.
    pub fn send_rest(&mut self, socket: BorrowedFd<'_>, landed: Landed) -> Ticket {
        let ticket = self.in_flight.board_again(landed);
        self.submit_send(socket, ticket, Patience::Patient);
        ticket
    }

    /// The output of a send that has ended.
    ///
    /// # Panics
    /// If it is not an output.
    pub fn take_output(&mut self, landed: Landed) -> Output {
        match self.in_flight.take(landed) {
            Memory::Output { output, .. } => output,
            other => panic!("an output was sent, not {other:?}"),
        }
    }

    /// Connects a socket.
    pub fn connect(
        &mut self,
        socket: BorrowedFd<'_>,
        address: SocketAddr,
        user_data: u64,
    ) -> Ticket {
        let memory = Memory::Address(SocketAddress::new(address));
        let ticket = self.in_flight.board(memory, checked(user_data));
        let Memory::Address(address) = self.in_flight.memory(ticket) else {
            unreachable!("boarded two lines above");
        };
        let (address, length) = address.named();
        let entry = opcode::Connect::new(Fd(socket.as_raw_fd()), address, length).build();
        // SAFETY: the address is in its own allocation, in flight until this completes.
        unsafe { self.push_boarded(entry, ticket) };
        ticket
    }

    /// Forgets the memory of an operation that has ended.
    pub fn discard(&mut self, landed: Landed) {
        self.in_flight.take(landed);
    }

    /// Reads from `offset` into `buffer`.
    pub fn read(&mut self, file: BorrowedFd<'_>, offset: u64, buffer: FileBuffer, user_data: u64) {
        let ticket = self.in_flight.board(Memory::File(buffer), checked(user_data));
        self.submit_read(file, offset, ticket, 0);
    }

    /// Goes on with a landed read, into the buffer from `skip` on.
    pub fn read_rest(&mut self, file: BorrowedFd<'_>, offset: u64, landed: Landed, skip: usize) {
        let ticket = self.in_flight.board_again(landed);
        self.submit_read(file, offset, ticket, skip);
    }

    /// Writes `buffer` at `offset`.
    pub fn write(&mut self, file: BorrowedFd<'_>, offset: u64, buffer: FileBuffer, user_data: u64) {
        let ticket = self.in_flight.board(Memory::File(buffer), checked(user_data));
        self.submit_write(file, offset, ticket, 0);
    }

    /// Goes on with a landed write, of the buffer from `skip` on.
    pub fn write_rest(&mut self, file: BorrowedFd<'_>, offset: u64, landed: Landed, skip: usize) {
        let ticket = self.in_flight.board_again(landed);
        self.submit_write(file, offset, ticket, skip);
    }

    /// The buffer of a read or write that has ended.
    ///
    /// # Panics
    /// If it is not a file buffer.
    pub fn take_file_buffer(&mut self, landed: Landed) -> FileBuffer {
        match self.in_flight.take(landed) {
            Memory::File(buffer) => buffer,
            other => panic!("a file was read or written, not {other:?}"),
        }
    }

    fn submit_send(&mut self, socket: BorrowedFd<'_>, ticket: Ticket, patience: Patience) {
        let socket = Fd(socket.as_raw_fd());
        let mut flags = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
        if patience == Patience::Eager {
            flags |= libc::MSG_DONTWAIT;
        }
        let Memory::Output { output, sent } = self.in_flight.memory(ticket) else {
            unreachable!("sends are submitted for outputs");
        };
        let (entry, bytes) = if let Some(single) = output.as_single() {
            let rest = &single[*sent..];
            let bytes = rest.len().min(TRANSFER_BYTES_MAX);
            (opcode::Send::new(socket, rest.as_ptr(), bytes as u32).flags(flags).build(), bytes)
        } else {
            let (message, bytes) = self.in_flight.message(ticket);
            (opcode::SendMsg::new(socket, message).flags(flags as u32).build(), bytes)
        };
        if patience == Patience::Eager {
            assert!(self.skips_success(), "eager sends need a kernel that leaves completions out");
            // SAFETY: the output's heap memory and the message are in flight until this completes.
            unsafe { self.push_boarded(entry.flags(squeue::Flags::SKIP_SUCCESS), ticket) };
            self.expect_silence(ticket, bytes as u32);
        } else {
            // SAFETY: as above.
            unsafe { self.push_boarded(entry, ticket) };
        }
    }

    fn submit_read(&mut self, file: BorrowedFd<'_>, offset: u64, ticket: Ticket, skip: usize) {
        let Memory::File(buffer) = self.in_flight.memory_mut(ticket) else {
            unreachable!("reads are submitted for file buffers");
        };
        let rest = &mut buffer.bytes_mut()[skip..];
        let bytes = rest.len().min(TRANSFER_BYTES_MAX) as u32;
        let entry = opcode::Read::new(Fd(file.as_raw_fd()), rest.as_mut_ptr(), bytes);
        // SAFETY: the buffer's heap memory is in flight until this completes.
        unsafe { self.push_boarded(entry.offset(offset).build(), ticket) };
    }

    fn submit_write(&mut self, file: BorrowedFd<'_>, offset: u64, ticket: Ticket, skip: usize) {
        let Memory::File(buffer) = self.in_flight.memory(ticket) else {
            unreachable!("writes are submitted for file buffers");
        };
        let rest = &buffer.bytes()[skip..];
        let bytes = rest.len().min(TRANSFER_BYTES_MAX) as u32;
        let entry = opcode::Write::new(Fd(file.as_raw_fd()), rest.as_ptr(), bytes);
        // SAFETY: the buffer's heap memory is in flight until this completes.
        unsafe { self.push_boarded(entry.offset(offset).build(), ticket) };
    }

    fn without_success(&self, entry: squeue::Entry) -> squeue::Entry {
        if self.skips_success() { entry.flags(squeue::Flags::SKIP_SUCCESS) } else { entry }
    }

    /// # Safety
    /// As for [`Ring::push`].
    unsafe fn push_plain(&mut self, entry: squeue::Entry, bits: u64, user_data: u64) {
        self.awaited += 1;
        // SAFETY: as the caller promises.
        unsafe { self.push(&entry.user_data(bits | checked(user_data))) };
    }

    /// # Safety
    /// As for [`Ring::push`]: what `entry` names is the memory of `ticket`.
    unsafe fn push_boarded(&mut self, entry: squeue::Entry, ticket: Ticket) {
        self.awaited += 1;
        // SAFETY: as the caller promises.
        unsafe { self.push(&entry.user_data(ticket.user_data())) };
    }
}

fn checked(user_data: u64) -> u64 {
    assert!(user_data >> USER_DATA_BITS == 0, "the top bits of user_data are the ring's own");
    user_data
}
