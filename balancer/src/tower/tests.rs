//! Services whose readiness and answers are said by the test; polled by hand.

use super::*;
use crate::policy::by_name;
use ::tower::discover::Change;
use ::tower::load::Load;
use ::tower::{BoxError, Service};
use futures_util::Stream;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

#[derive(Clone, Copy, PartialEq, Debug)]
enum Mood {
    Ready,
    Busy,
    Broken,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Manner {
    Answers,
    Fails,
    Hangs,
    /// When it is polled again.
    AnswersLater,
}

/// A service, and the test's hand on it.
#[derive(Clone)]
struct Mock(Arc<Mutex<(Mood, Manner)>>, Arc<AtomicUsize>);

impl Mock {
    fn new() -> Self {
        Mock(Arc::new(Mutex::new((Mood::Ready, Manner::Answers))), Arc::default())
    }

    fn set(&self, mood: Mood, manner: Manner) {
        *self.0.lock().expect("no panic") = (mood, manner);
    }

    fn calls(&self) -> usize {
        self.1.load(Ordering::Relaxed)
    }
}

impl Service<()> for Mock {
    type Response = &'static str;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<&'static str, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self.0.lock().expect("no panic").0 {
            Mood::Ready => Poll::Ready(Ok(())),
            Mood::Busy => Poll::Pending,
            Mood::Broken => Poll::Ready(Err("broken".into())),
        }
    }

    fn call(&mut self, (): ()) -> Self::Future {
        self.1.fetch_add(1, Ordering::Relaxed);
        match self.0.lock().expect("no panic").1 {
            Manner::Answers => Box::pin(std::future::ready(Ok("answer"))),
            Manner::Fails => Box::pin(std::future::ready(Err("failure".into()))),
            Manner::Hangs => Box::pin(std::future::pending()),
            Manner::AnswersLater => {
                let mut polls = 0;
                Box::pin(poll_fn(move |context| {
                    polls += 1;
                    context.waker().wake_by_ref();
                    if polls > 3 { Poll::Ready(Ok("answer")) } else { Poll::Pending }
                }))
            }
        }
    }
}

/// Changes as the test says them; goes on for ever unless it is told to end.
#[derive(Clone, Default)]
struct Script(Arc<Mutex<Said>>);

/// What is still to be told, and whether that is all.
type Said = (VecDeque<Change<&'static str, Mock>>, bool);

impl Script {
    fn of(mocks: &[(&'static str, &Mock)]) -> Self {
        let script = Script::default();
        mocks.iter().for_each(|(name, mock)| script.say(Change::Insert(name, (*mock).clone())));
        script
    }

    fn say(&self, change: Change<&'static str, Mock>) {
        self.0.lock().expect("no panic").0.push_back(change);
    }

    fn end(&self) {
        self.0.lock().expect("no panic").1 = true;
    }
}

impl Stream for Script {
    type Item = Result<Change<&'static str, Mock>, BoxError>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut said = self.0.lock().expect("no panic");
        match said.0.pop_front() {
            Some(change) => Poll::Ready(Some(Ok(change))),
            None if said.1 => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

type Balanced = Balance<Script, ByResult>;

fn balance(policy: &str, script: &Script) -> Balanced {
    let policy = by_name(policy).expect("there is such a policy");
    Balance::new(script.clone(), policy, BalanceConfig::default(), ByResult)
}

fn context() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

fn poll_ready(balance: &mut Balanced) -> Poll<Result<(), String>> {
    balance.poll_ready(&mut context()).map_err(|error| error.to_string())
}

/// A call to the end that it has at once.
#[track_caller]
fn call(balance: &mut Balanced) -> bool {
    assert!(poll_ready(balance) == Poll::Ready(Ok(())));
    match pin!(balance.call(())).poll(&mut context()) {
        Poll::Ready(result) => result.is_ok(),
        Poll::Pending => panic!("it hangs"),
    }
}

fn tally(view: &View, name: &str) -> crate::metrics::Tally {
    view.metrics().endpoint(name).expect("it is there").tally
}

#[test]
fn it_can_be_sent_and_shared_by_tasks() {
    fn is_send<T: Send + 'static>(_: &T) {}
    let mut balance = balance("hist", &Script::of(&[("a", &Mock::new())]));
    is_send(&balance);
    assert!(call(&mut balance));
    let view = balance.view();
    assert_eq!(poll_ready(&mut balance), Poll::Ready(Ok(())));
    let call = balance.call(());
    is_send(&call);
    is_send(&view);
    is_send(&RetryBudget::new(crate::budget::BudgetConfig::default()));
}

#[test]
fn it_is_ready_when_somebody_is_and_calls_only_who_is() {
    let (a, b) = (Mock::new(), Mock::new());
    let script = Script::default();
    let mut balance = balance("rr", &script);
    assert_eq!(poll_ready(&mut balance), Poll::Pending, "nobody is known yet");
    script.say(Change::Insert("a", a.clone()));
    script.say(Change::Insert("b", b.clone()));
    a.set(Mood::Busy, Manner::Answers);
    b.set(Mood::Busy, Manner::Answers);
    assert_eq!(poll_ready(&mut balance), Poll::Pending, "nobody is ready");
    b.set(Mood::Ready, Manner::Answers);
    (0..10).for_each(|_| assert!(call(&mut balance)));
    assert_eq!((a.calls(), b.calls()), (0, 10));
    a.set(Mood::Ready, Manner::Answers);
    (0..10).for_each(|_| assert!(call(&mut balance)));
    assert_eq!((a.calls(), b.calls()), (5, 15));
}

#[test]
fn who_cannot_get_ready_is_dropped_until_it_is_found_again() {
    let (a, b) = (Mock::new(), Mock::new());
    let script = Script::of(&[("a", &a), ("b", &b)]);
    let mut balance = balance("rr", &script);
    a.set(Mood::Broken, Manner::Answers);
    (0..4).for_each(|_| assert!(call(&mut balance)));
    assert_eq!((a.calls(), b.calls()), (0, 4));
    let mended = Mock::new();
    script.say(Change::Insert("a", mended.clone()));
    (0..100).for_each(|_| assert!(call(&mut balance)));
    assert!(mended.calls() > 0 && a.calls() == 0);
    mended.set(Mood::Broken, Manner::Answers);
    b.set(Mood::Broken, Manner::Answers);
    // The last one to be called is asked again, the other was ready: a call finds that out.
    script.end();
    let mut ended = poll_ready(&mut balance);
    while ended == Poll::Ready(Ok(())) {
        drop(balance.call(()));
        ended = poll_ready(&mut balance);
    }
    assert_eq!(ended, Poll::Ready(Err(NoEndpoint.to_string())));
}

#[test]
fn one_that_fails_is_ejected_though_it_fails_fast() {
    let (a, b, c) = (Mock::new(), Mock::new(), Mock::new());
    let mut balance = balance("hist", &Script::of(&[("a", &a), ("b", &b), ("c", &c)]));
    c.set(Mood::Ready, Manner::Fails);
    let failed = (0..1_000).filter(|_| !call(&mut balance)).count();
    assert_eq!(failed, c.calls());
    assert!(failed <= 20, "{failed}");
    let view = balance.view();
    let of_c = tally(&view, "c");
    assert_eq!(
        (of_c.picks, of_c.failures, of_c.errors_internal),
        (failed as u64, failed as u64, failed as u64)
    );
    let all: u64 = view.metrics().endpoints.iter().map(|endpoint| endpoint.tally.picks).sum();
    assert_eq!(all, 1_000);
}

#[test]
fn a_call_that_nobody_waits_for_is_not_in_flight() {
    let a = Mock::new();
    let mut balance = balance("hist", &Script::of(&[("a", &a)]));
    let view = balance.view();
    a.set(Mood::Ready, Manner::Hangs);
    assert_eq!(poll_ready(&mut balance), Poll::Ready(Ok(())));
    let mut hanging = Box::pin(balance.call(()));
    assert!(hanging.as_mut().poll(&mut context()).is_pending());
    assert_eq!(tally(&view, "a").in_flight(), 1);
    drop(hanging);
    let counted = tally(&view, "a");
    assert_eq!((counted.in_flight(), counted.abandoned), (0, 1));
}

#[test]
fn one_that_is_removed_gets_no_more_and_ends_what_it_has() {
    let (a, b) = (Mock::new(), Mock::new());
    let script = Script::of(&[("a", &a), ("b", &b)]);
    let mut balance = balance("rr", &script);
    let mut calls = Vec::new();
    a.set(Mood::Ready, Manner::Hangs);
    b.set(Mood::Ready, Manner::Hangs);
    for _ in 0..2 {
        assert_eq!(poll_ready(&mut balance), Poll::Ready(Ok(())));
        calls.push(balance.call(()));
    }
    script.say(Change::Remove("a"));
    b.set(Mood::Ready, Manner::Answers);
    (0..10).for_each(|_| assert!(call(&mut balance)));
    assert_eq!((a.calls(), b.calls()), (1, 11));
    let view = balance.view();
    assert_eq!(tally(&view, "a").in_flight(), 1);
    assert_eq!(view.metrics().endpoint("a").expect("it drains").standings.draining, 1);
    calls.clear();
    assert_eq!(view.metrics().endpoint("a"), None);
}

#[test]
fn ejected_ones_that_alone_are_ready_are_not_called() {
    let (a, b, c) = (Mock::new(), Mock::new(), Mock::new());
    // So long that no trial is due while this runs.
    let mut config = BalanceConfig::default();
    (config.balancer.health.pause_min, config.balancer.health.pause_max) = (DAY, DAY);
    let script = Script::of(&[("a", &a), ("b", &b), ("c", &c)]);
    let policy = by_name("rr").expect("there is such a policy");
    let mut balance = Balance::new(script, policy, config, ByResult);
    c.set(Mood::Ready, Manner::Fails);
    while balance.view().metrics().endpoint("c").is_none_or(|it| it.standings.ejected == 0) {
        call(&mut balance);
    }
    let calls = c.calls();
    a.set(Mood::Busy, Manner::Answers);
    b.set(Mood::Busy, Manner::Answers);
    // Those that said they were ready may be called once more each.
    while poll_ready(&mut balance).is_ready() && c.calls() == calls {
        drop(balance.call(()));
    }
    assert_eq!(c.calls(), calls);
    assert_eq!(poll_ready(&mut balance), Poll::Pending);
}

/// `a` has failed until it was ejected, for 10 ms at most; `b` and `c` will never be ready again.
fn only_an_ejected_one_is_ready() -> (Balanced, [Mock; 3]) {
    let mocks = [Mock::new(), Mock::new(), Mock::new()];
    let [a, b, c] = &mocks;
    let mut config = BalanceConfig::default();
    config.balancer.health.pause_min = Duration::from_millis(10);
    let script = Script::of(&[("a", a), ("b", b), ("c", c)]);
    let policy = by_name("rr").expect("there is such a policy");
    let mut balance = Balance::new(script, policy, config, ByResult);
    a.set(Mood::Ready, Manner::Fails);
    while balance.view().metrics().endpoint("a").is_none_or(|it| it.standings.ejected == 0) {
        call(&mut balance);
    }
    a.set(Mood::Ready, Manner::Answers);
    b.set(Mood::Busy, Manner::Answers);
    c.set(Mood::Busy, Manner::Answers);
    (balance, mocks)
}

/// Runs in a runtime with a timer, within what is far more than it should take; in a task of its own, which
/// the end of that time does not wake.
fn within_patience(work: impl Future<Output = ()> + Send + 'static) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().build().expect("a runtime");
    let patience = Duration::from_secs(10);
    let ended = runtime
        .block_on(async { tokio::time::timeout(patience, tokio::spawn(work)).await })
        .expect("it waits for what never comes");
    ended.expect("it does not panic");
}

#[test]
fn who_waits_is_woken_when_an_ejected_one_is_to_be_tried() {
    within_patience(async {
        let (mut balance, mocks) = only_an_ejected_one_is_ready();
        let calls = |mocks: &[Mock; 3]| mocks.each_ref().map(Mock::calls);
        let [of_a, ..] = calls(&mocks);
        // Those that said they were ready take one call each; whatever comes then is for `a`.
        for _ in 0..20 {
            poll_fn(|context| balance.poll_ready(context)).await.expect("there are three");
            balance.call(()).await.expect("all are well");
        }
        let [now_of_a, of_b, of_c] = calls(&mocks);
        assert!(now_of_a - of_a >= 18, "{of_a} to {now_of_a}; {of_b}, {of_c}");
        assert!(tally(&balance.view(), "a").trials >= 1);
    });
}

#[test]
fn who_waits_is_woken_when_the_call_ends_that_tries() {
    within_patience(async {
        let (mut balance, mocks) = only_an_ejected_one_is_ready();
        while tally(&balance.view(), "a").trials == 0 {
            mocks[0].set(Mood::Ready, Manner::AnswersLater);
            poll_fn(|context| balance.poll_ready(context)).await.expect("there are three");
            let call = balance.call(());
            if tally(&balance.view(), "a").trials == 0 {
                call.await.expect("all are well");
                continue;
            }
            assert_eq!(poll_ready(&mut balance), Poll::Pending, "the only one is being tried");
            // Two tasks, so that the end of the one does not wake the other by itself.
            let call = tokio::spawn(call);
            poll_fn(|context| balance.poll_ready(context)).await.expect("there are three");
            assert!(call.await.expect("it does not panic").is_ok());
        }
    });
}

#[test]
fn a_trial_that_is_due_makes_it_ready_also_where_nothing_wakes() {
    let (mut balance, [a, ..]) = only_an_ejected_one_is_ready();
    let trials = |balance: &Balanced| tally(&balance.view(), "a").trials;
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while trials(&balance) == 0 {
        assert!(std::time::Instant::now() < until, "it waits for what never comes");
        match poll_ready(&mut balance) {
            Poll::Ready(ready) => {
                ready.expect("there are three");
                let answer = pin!(balance.call(())).poll(&mut context());
                assert!(matches!(answer, Poll::Ready(Ok(_))));
            }
            Poll::Pending => std::thread::yield_now(),
        }
    }
    assert!(a.calls() > 0);
}

#[test]
fn a_load_is_what_a_call_costs() {
    let mock = Mock::new();
    let config = BalanceConfig::default();
    let mut load = HistogramLoad::new(mock.clone(), config, ByResult);
    let unknown = load.load();
    assert!(load.poll_ready(&mut context()).is_ready());
    mock.set(Mood::Ready, Manner::Hangs);
    let first = load.call(());
    assert!(load.load() > unknown, "one call, and no second before its answer");
    drop(first);
    mock.set(Mood::Ready, Manner::Fails);
    assert!(matches!(pin!(load.call(())).poll(&mut context()), Poll::Ready(Err(_))));
    let failing = load.load();
    let mut other = HistogramLoad::new(Mock::new(), config, ByResult);
    assert!(matches!(pin!(other.call(())).poll(&mut context()), Poll::Ready(Ok(_))));
    assert!(other.load() > unknown && other.load() < failing, "a failure costs the patience");
}

#[test]
fn what_is_configured_is_checked() {
    let config = BalanceConfig { timeout: Duration::ZERO, ..BalanceConfig::default() };
    let error = config.validate().expect_err("no time").to_string();
    assert!(error.starts_with("timeout is 0ns; it must be between 1ms and"), "{error}");
    let made = std::panic::catch_unwind(|| HistogramLoad::new(Mock::new(), config, ByResult));
    assert!(made.is_err());
}
