//! A span: consecutive system call numbers that share a verdict.

use crate::{
    SeccompError,
    arch::X32_BIT,
    precedence::{Verdict, verdict},
    rules::BoundRule,
};

/// From `first` to the number before the next span's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Span {
    pub first: u32,
    pub verdict: Verdict,
}

/// What numbers without a rule get, in ascending order, the first from 0.
pub(crate) struct Background(Vec<(u32, u32)>);

/// Return values that need no rule.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fallbacks {
    pub default: u32,
    /// For calls newer than the profile.
    pub newer: u32,
    /// For an ABI that the profile does not name.
    pub foreign: u32,
}

/// An ABI of the profile: from which number on its calls are newer than the profile, if that matters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Abi {
    pub newer_from: Option<u32>,
}

impl Background {
    /// For an architecture whose AUDIT_ARCH is its own.
    pub(crate) fn plain(abi: Abi, fallbacks: Fallbacks) -> Background {
        let mut pieces = vec![(0, fallbacks.default)];
        pieces.extend(abi.newer_from.map(|first| (first, fallbacks.newer)));
        Background(pieces)
    }

    /// For AUDIT_ARCH_X86_64, where bit 30 tells x32 apart.
    pub(crate) fn x86_64(native: Option<Abi>, x32: Option<Abi>, fallbacks: Fallbacks) -> Background {
        let Fallbacks { default, newer, foreign } = fallbacks;
        let native_newer = native.and_then(|abi| abi.newer_from);
        let x32_newer = x32.and_then(|abi| abi.newer_from);
        let x32_default = if x32.is_some() { default } else { foreign };

        let mut pieces = vec![(0, if native.is_some() { default } else { foreign })];
        pieces.extend(native_newer.map(|first| (first, newer)));
        pieces.push((X32_BIT, x32_default));
        pieces.extend(x32_newer.map(|first| (first, newer)));
        // No ABI has numbers from here on: to libseccomp they are x32's, runc's stub looks at bit 30 alone.
        pieces.push((2 * X32_BIT, if native_newer.is_some() { newer } else { x32_default }));
        pieces.push((3 * X32_BIT, if x32_newer.is_some() { newer } else { x32_default }));
        if native.is_some() && x32.is_none() {
            // A tracer skips a call by setting its number to -1; nobody must be killed for that.
            pieces.push((u32::MAX, default));
        }
        Background(pieces)
    }
}

/// Lays the verdicts of `rules`, which are sorted by number, over the background; neighbours with one verdict become
/// one span.
pub(crate) fn lay(background: &Background, rules: &[BoundRule]) -> Result<Vec<Span>, SeccompError> {
    let mut spans: Vec<Span> = Vec::new();
    let mut calls = rules.chunk_by(|one, next| one.number == next.number).peekable();
    for (at, &(first, action)) in background.0.iter().enumerate() {
        let end = background.0.get(at + 1).map(|&(next, _)| next);
        push(&mut spans, first, Verdict::Return(action));
        while let Some(call) = calls.next_if(|call| end.is_none_or(|end| call[0].number < end)) {
            let number = call[0].number;
            push(&mut spans, number, verdict(call)?);
            if let Some(after) = number.checked_add(1)
                && Some(after) != end
            {
                push(&mut spans, after, Verdict::Return(action));
            }
        }
    }
    Ok(spans)
}

fn push(spans: &mut Vec<Span>, first: u32, verdict: Verdict) {
    // A span that begins where the last one did replaces it: it was empty.
    spans.pop_if(|last| last.first == first);
    if spans.last().is_none_or(|last| last.verdict != verdict) {
        spans.push(Span { first, verdict });
    }
}
