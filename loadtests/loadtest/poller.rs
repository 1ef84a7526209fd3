//! Sleeping until a socket or a time is there, to the microsecond: Linux's epoll. The only place that calls the system by hand.

use std::io::{Error, ErrorKind, Result};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Events taken from the system at once.
const EVENTS: usize = 256;

/// Waits for sockets.
pub struct Poller {
    epoll: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Poller {
    /// Opens it, and asks the system to wake this thread on time (its default is 50 µs late).
    pub fn new() -> Result<Self> {
        // SAFETY: no memory is involved; the result is checked.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if epoll < 0 {
            return Err(Error::last_os_error());
        }
        // SAFETY: no memory is involved. A refusal leaves the default.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
        // SAFETY: it was opened above and nobody else has it.
        let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
        Ok(Self { epoll, events: vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS] })
    }

    /// Watches a socket until it is closed; `token` comes back with its events.
    pub fn watch(&self, socket: &impl AsRawFd, token: u64) -> Result<()> {
        let wanted = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        #[expect(clippy::cast_sign_loss, reason = "a set of bits")]
        let mut event = libc::epoll_event { events: wanted as u32, u64: token };
        // SAFETY: both descriptors are open, the event lives through the call.
        let result = unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, socket.as_raw_fd(), &raw mut event) };
        if result < 0 { Err(Error::last_os_error()) } else { Ok(()) }
    }

    /// Waits for events, `timeout` at most, and gives their tokens out.
    pub fn wait(&mut self, timeout: Duration, tokens: &mut Vec<u64>) -> Result<()> {
        #[expect(clippy::cast_possible_wrap, reason = "a run lasts hours at most")]
        let time = libc::timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
        // SAFETY: the buffer has room for EVENTS events, the time lives through the call, there is no signal mask.
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.epoll.as_raw_fd(),
                self.events.as_mut_ptr(),
                EVENTS,
                &raw const time,
                std::ptr::null::<libc::sigset_t>(),
                0usize,
            )
        };
        let Ok(count) = usize::try_from(count) else {
            let error = Error::last_os_error();
            return if error.kind() == std::io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
        };
        tokens.extend(self.events[..count].iter().map(|event| event.u64));
        Ok(())
    }
}

/// Begins to connect; the socket can be written to when it is connected, and waits for nobody.
pub fn connect(address: SocketAddr) -> Result<TcpStream> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: no memory is involved; the result is checked.
    let socket = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: it was opened above and nobody else has it.
    let stream = unsafe { TcpStream::from_raw_fd(socket) };
    let family = libc::sa_family_t::try_from(family).map_err(|_| ErrorKind::Unsupported)?;
    // SAFETY: an all-zero address of either kind is a valid one.
    let (mut v4, mut v6): (libc::sockaddr_in, libc::sockaddr_in6) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    let (name, length) = match address {
        SocketAddr::V4(address) => {
            (v4.sin_family, v4.sin_port) = (family, address.port().to_be());
            v4.sin_addr.s_addr = u32::from_ne_bytes(address.ip().octets());
            ((&raw const v4).cast::<libc::sockaddr>(), size_of_val(&v4))
        }
        SocketAddr::V6(address) => {
            (v6.sin6_family, v6.sin6_port, v6.sin6_scope_id) = (family, address.port().to_be(), address.scope_id());
            v6.sin6_addr.s6_addr = address.ip().octets();
            ((&raw const v6).cast::<libc::sockaddr>(), size_of_val(&v6))
        }
    };
    // SAFETY: the address lives through the call and has the length that is given.
    let result = unsafe { libc::connect(socket, name, length as libc::socklen_t) };
    let error = Error::last_os_error();
    if result < 0 && error.raw_os_error() != Some(libc::EINPROGRESS) { Err(error) } else { Ok(stream) }
}

/// Has the system keep little of what this socket receives, so that a slow reader is felt by who sends.
pub fn keep_little(stream: &TcpStream) {
    let bytes: libc::c_int = 2048;
    // SAFETY: the option's value lives through the call and has the size that is given. A refusal does no harm.
    unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUF,
            (&raw const bytes).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
    }
}

/// Processor time of this process.
pub fn own_time() -> Duration {
    // SAFETY: an all-zero `rusage` is a valid one, and it lives through the call.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    #[expect(clippy::cast_sign_loss, reason = "times of a process are not negative")]
    let time = |time: libc::timeval| Duration::new(time.tv_sec as u64, 0) + Duration::from_micros(time.tv_usec as u64);
    time(usage.ru_utime) + time(usage.ru_stime)
}

/// Processor time of another process and all of its threads, in steps of the system's tick (10 ms).
pub fn time_of(process: u32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name in parentheses may hold anything; user and system time are fields 14 and 15 of the whole line.
    let (_, after) = stat.rsplit_once(')')?;
    let mut fields = after.split_whitespace().skip(11).map(str::parse::<u64>);
    let ticks = fields.next()?.ok()? + fields.next()?.ok()?;
    // SAFETY: no memory is involved.
    let per_second = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).ok().filter(|ticks| *ticks > 0)?;
    Some(Duration::from_micros(ticks * 1_000_000 / per_second))
}
