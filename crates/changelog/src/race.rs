//! Places where a writer may come between two of a reader's system calls. Tests put something there; otherwise they are
//! nothing.

#[cfg(test)]
type Hook = Box<dyn FnMut()>;

#[cfg(test)]
thread_local! {
    static HOOK: std::cell::RefCell<Option<Hook>> = const { std::cell::RefCell::new(None) };
}

/// Marks such a place.
#[inline]
pub(crate) fn point() {
    #[cfg(test)]
    {
        // Taken out meanwhile: what the hook does may pass such places itself.
        let Some(mut hook) = HOOK.with_borrow_mut(Option::take) else { return };
        hook();
        HOOK.set(Some(hook));
    }
}

/// Calls `hook` at each such place that `body` passes.
#[cfg(test)]
pub(crate) fn with_hook<T>(hook: impl FnMut() + 'static, body: impl FnOnce() -> T) -> T {
    HOOK.set(Some(Box::new(hook)));
    let result = body();
    HOOK.set(None);
    result
}
