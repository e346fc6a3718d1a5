//! Any spec survives printing and parsing, and no text makes the parser panic.

use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::Value;
use vfsrun_spec::vfs::{
    Access, Branch, BranchSource, Capture, CaptureBase, CaptureForm, CaptureLayer, CaptureWhen, Enforce,
    Environment, FileType, FsRight, HIGHEST_ABI, Landlock, LandlockAccess, LandlockRules, Live, NameRule,
    Names, NetPort, NetRight, Network, OneOrMore, Order, Owner, Passthrough, PathBeneath, Policy, Predicates,
    Right, Rule, RuleAction, Ruleset, Scope, ScopeRight, Size, SizeRange, Symlinks, TypeConflict, Upper,
    UpperOn, Whiteouts, XattrRule, Xattrs,
};
use vfsrun_spec::{Process, Root, SCHEMA, Spec, Vfs};

fn path_in_root() -> impl Strategy<Value = PathBuf> {
    "(/[a-z. ~\"\\\\é]{1,6}){1,3}/?"
        .prop_filter("no way up", |path| path.split('/').all(|name| name != ".."))
        .prop_map(PathBuf::from)
}

fn host_path() -> impl Strategy<Value = PathBuf> {
    prop_oneof![path_in_root(), "(~/|\\./|[a-z.])[a-zA-Z0-9./ -]{0,8}".prop_map(PathBuf::from)]
}

fn rules(of_branch: bool) -> impl Strategy<Value = Vec<Rule>> {
    let action = prop_oneof![Just(RuleAction::Hide), Just(RuleAction::Deny), Just(RuleAction::Log)];
    let named = (names(), predicates(), action).prop_map(move |(names, predicates, action)| {
        // Of no name and nothing else there is nothing to say.
        let is_nothing = names == Names::All && predicates == Predicates::default();
        let names = if is_nothing { Names::Regex("x".into()) } else { names };
        let closer = Predicates { types: predicates.types.clone(), ..Predicates::default() } != predicates;
        // What is recorded has a path and a type, and is of the whole root.
        let action =
            if action == RuleAction::Log && (closer || of_branch) { RuleAction::Hide } else { action };
        Rule::Names(NameRule { names, predicates, action })
    });
    let extensions = prop::sample::subsequence(vec!["raw".to_owned(), "JPEG".into(), "jpg~".into()], 2..=3);
    vec(prop_oneof![4 => named, 1 => extensions.prop_map(Rule::ExtensionPriority)], 0..3)
}

fn names() -> impl Strategy<Value = Names> {
    prop_oneof![
        "[!/*a-z]\\PC{0,6}".prop_map(Names::Pattern),
        "[!/*a-z]\\PC{0,6}".prop_map(Names::Regex),
        Just(Names::All),
    ]
}

fn predicates() -> impl Strategy<Value = Predicates> {
    let types = [FileType::Regular, FileType::Directory, FileType::Symlink, FileType::Fifo, FileType::Socket];
    let types = prop::sample::subsequence(types.to_vec(), 1..=5).prop_map(OneOrMore);
    let ids = || option::of(vec(any::<u32>(), 1..3).prop_map(OneOrMore));
    let range = (any::<u64>(), any::<u64>(), 0..3).prop_map(|(one, two, ends)| SizeRange {
        min: (ends != 0).then_some(Size(one.min(two))),
        max: (ends != 1).then_some(Size(one.max(two))),
    });
    (option::of(types), ids(), ids(), option::of(range))
        .prop_map(|(types, owners, groups, size)| Predicates { types, owners, groups, size })
}

fn source() -> impl Strategy<Value = BranchSource> {
    prop_oneof![
        host_path().prop_map(BranchSource::Path),
        "[a-z0-9:./-]{1,8}".prop_map(BranchSource::Layer),
        "[a-z0-9*?./-]{1,8}"
            .prop_filter("a pattern", |text| !text.contains("**"))
            .prop_map(BranchSource::Glob),
        "[a-z0-9./-]{1,8}(:[a-z0-9.]{1,4})?".prop_map(BranchSource::Image),
        host_path().prop_map(BranchSource::Inputs),
        "b3:[0-9a-f]{64}".prop_map(BranchSource::StoredInputs),
        Just(BranchSource::HostTools),
        Just(BranchSource::Root),
    ]
}

/// A link policy, with a scope where there is something to look up.
fn links() -> impl Strategy<Value = (Symlinks, Scope)> {
    let follow = prop_oneof![Just(Symlinks::Directory), Just(Symlinks::Regular), Just(Symlinks::All)];
    let scope = prop_oneof![Just(Scope::View), Just(Scope::Branch), Just(Scope::Host)];
    prop_oneof![Just((Symlinks::Never, Scope::View)), (follow, scope)]
}

/// Frozen, or how changes are noticed.
fn changes() -> impl Strategy<Value = (bool, Live)> {
    let live = prop_oneof![Just(Live::Auto), Just(Live::Watch), Just(Live::Sweep)];
    prop_oneof![Just((true, Live::Auto)), live.prop_map(|live| (false, live))]
}

fn branch() -> impl Strategy<Value = Branch> {
    let patterns = || vec("\\PC{0,8}", 0..3);
    let read_only = (source(), path_in_root(), patterns(), patterns(), rules(true), links(), changes())
        .prop_map(|(source, at, hide, only, rules, (symlinks, scope), (frozen, live))| Branch {
            source,
            at,
            hide,
            only,
            rules,
            symlinks,
            scope,
            frozen,
            live,
            whiteouts: Whiteouts::None,
            xattrs: Xattrs::Off,
            override_stat: false,
            owner: Owner::default(),
            perms: None,
            trusted: false,
            access: Access::ReadOnly,
        });
    let marked = prop_oneof![Just(Whiteouts::Overlay), Just(Whiteouts::Oci)];
    let rule = |number: usize, to: Option<String>| XattrRule { from: format!("user.{number}."), to };
    let rules = vec(option::of("user\\.[a-z]{1,4}\\."), 1..3)
        .prop_map(move |list| list.into_iter().enumerate().map(|(number, to)| rule(number, to)).collect());
    let xattrs = prop_oneof![Just(Xattrs::Off), Just(Xattrs::Pass), rules.prop_map(Xattrs::Map)];
    let owner =
        (option::of(any::<u32>()), option::of(any::<u32>())).prop_map(|(uid, gid)| Owner { uid, gid });
    let perms =
        option::of("[ugo]{1,3}[-+=][rwxX]{0,4}".prop_map(|text| text.parse().expect("as chmod takes it")));
    let marked =
        (host_path(), marked, xattrs, owner, perms).prop_map(|(path, whiteouts, xattrs, owner, perms)| {
            Branch {
                whiteouts,
                xattrs,
                override_stat: owner.uid.is_some(),
                owner,
                trusted: perms.is_some(),
                perms,
                ..Branch::new(BranchSource::Path(path))
            }
        });
    let read_write = (host_path(), path_in_root())
        .prop_filter("a place below /", |(_, at)| at.components().count() > 1)
        .prop_map(|(path, at)| Branch {
            at,
            access: Access::ReadWrite,
            ..Branch::new(BranchSource::Path(path))
        });
    prop_oneof![4 => read_only, 1 => marked, 1 => read_write]
}

fn capture() -> impl Strategy<Value = Capture> {
    let form = prop_oneof![Just(CaptureForm::Canonical), Just(CaptureForm::Raw)];
    let base = prop_oneof![Just(CaptureBase::State), Just(CaptureBase::Contents)];
    let when = prop_oneof![Just(CaptureWhen::Success), Just(CaptureWhen::Always)];
    let layer = (option::of(vec(path_in_root(), 1..3)), option::of("[a-z0-9.-]{1,8}"), when, form, base)
        .prop_map(|(only, name, when, form, base)| {
            Capture::Layer(CaptureLayer { only, name, when, form, base })
        });
    prop_oneof![1 => Just(Capture::Discard), 4 => layer]
}

fn landlock() -> impl Strategy<Value = Landlock> {
    let ports = || option::of(vec(any::<u16>(), 0..3));
    let by_place = (option::of(vec(path_in_root(), 0..3)), ports(), ports()).prop_map(
        |(write, connect_tcp, bind_tcp)| {
            Landlock::Rules(LandlockRules { write, connect_tcp, bind_tcp, ..Default::default() })
        },
    );
    prop_oneof![1 => Just(Landlock::Off), 4 => by_place, 4 => by_right().prop_map(Landlock::Rules)]
}

/// Every right is handled, so that any may be allowed.
fn by_right() -> impl Strategy<Value = LandlockRules> {
    let fs = || vec(select(FsRight::ALL).prop_map(LandlockAccess::Right), 1..4);
    let net = || vec(select(NetRight::ALL).prop_map(LandlockAccess::Right), 1..3);
    let group = || select(FsRight::GROUPS).prop_map(|group| vec![LandlockAccess::Group(group)]);
    let path = (prop_oneof![3 => fs(), 1 => group()], vec(path_in_root(), 1..3))
        .prop_map(|(allowed_access, parent)| PathBeneath { allowed_access, parent });
    let port =
        (net(), vec(any::<u16>(), 1..3)).prop_map(|(allowed_access, port)| NetPort { allowed_access, port });
    let scopes = option::of(vec(select(ScopeRight::ALL).prop_map(LandlockAccess::Right), 1..3));
    let enforce = prop_oneof![Just(Enforce::Required), Just(Enforce::BestEffort)];
    (enforce, 3..=HIGHEST_ABI, scopes, option::of(vec(path, 1..3)), option::of(vec(port, 1..3))).prop_map(
        |(enforce, abi, scoped, path_beneath, net_port)| {
            let all = FsRight::ALL.iter().copied().map(LandlockAccess::Right).collect();
            let ruleset = vec![Ruleset { handled_access_fs: Some(all), handled_access_net: None, scoped }];
            LandlockRules {
                enforce,
                abi: Some(abi),
                ruleset: Some(ruleset),
                path_beneath,
                net_port,
                ..Default::default()
            }
        },
    )
}

fn upper() -> impl Strategy<Value = Upper> {
    let size = prop_oneof![1..=u64::MAX, (1_u64..1000, 0_u32..4).prop_map(|(n, unit)| n << (10 * unit))];
    (prop_oneof![Just(UpperOn::Disk), Just(UpperOn::Memory)], option::of(size))
        .prop_map(|(on, size)| Upper { on, size: size.map(Size) })
}

/// What is shown where the branches leave it open.
fn decisions() -> impl Strategy<Value = (TypeConflict, Policy, Order, Option<i64>)> {
    let policy = prop_oneof![Just(Policy::First), Just(Policy::Newest), Just(Policy::Error)];
    let order = prop_oneof![Just(Order::Sorted), Just(Order::Native), any::<u64>().prop_map(Order::Shuffled)];
    let types = prop_oneof![Just(TypeConflict::First), Just(TypeConflict::Error)];
    (types, policy, order, option::of(any::<i64>()))
}

fn has_one_root(branches: &[Branch]) -> bool {
    branches.iter().filter(|branch| branch.source == BranchSource::Root).count() < 2
}

fn vfs() -> impl Strategy<Value = Vfs> {
    let network = prop_oneof![Just(Network::None), Just(Network::Loopback), Just(Network::Host)];
    let passthrough =
        prop_oneof![Just(Passthrough::Auto), Just(Passthrough::Always), Just(Passthrough::Never)];
    let env = prop_oneof![Just(Environment::Hermetic), Just(Environment::Exact)];
    let seconds = || option::of((1_u64..100_000_000_000).prop_map(Duration::from_millis));
    (
        vec(branch(), 1..4).prop_filter("one root", |branches| has_one_root(branches)),
        rules(false),
        decisions(),
        upper(),
        capture(),
        landlock(),
        option::of(network),
        (seconds(), seconds()),
        (any::<bool>(), env, any::<bool>(), passthrough),
    )
        .prop_map(
            |(
                branches,
                rules,
                (types, policy, order, latest_time),
                upper,
                capture,
                landlock,
                network,
                (time_limit, deadline),
                (stdin, env, provenance, passthrough),
            )| Vfs {
                branches,
                rules,
                types,
                policy,
                order,
                latest_time,
                upper,
                capture,
                landlock,
                network,
                time_limit,
                deadline,
                stdin,
                env,
                provenance,
                passthrough,
            },
        )
}

/// JSON texts near to specs: real keys, any values.
fn near_spec() -> impl Strategy<Value = String> {
    let keys =
        "(vfs|process|branches|rules|path|at|args|hide|capture|landlock|upper|size|linux|mounts|root|user)";
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,6}|/|rw|all|20G|tools".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((keys, inner), 0..6).prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
    .prop_map(|value| value.to_string())
}

proptest! {
    // A failure is to become a test of its own, not a file of seeds.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn printed_spec_parses_to_itself(vfs in vfs()) {
        let process = Process { args: vec!["true".into()], ..Process::default() };
        // That a branch may be.
        let root = Root { path: "rootfs".into(), readonly: false };
        let spec = Spec { process: Some(process), root: Some(root), vfs: Some(vfs), ..Spec::default() };
        let text = serde_json::to_string(&spec).expect("a spec is printable");

        let parsed = Spec::parse(&text, Path::new("spec.json")).map_err(|error| {
            TestCaseError::fail(format!("{error}\n{text}"))
        })?;

        prop_assert_eq!(&parsed.text, &text);
        prop_assert_eq!(Spec { text: String::new(), ..parsed }, spec);
    }

    #[test]
    fn printed_spec_satisfies_the_schema(vfs in vfs()) {
        let schema = serde_json::from_str(SCHEMA).expect("the schema is JSON");
        let schema = jsonschema::validator_for(&schema).expect("the schema compiles");
        let process = Process { args: vec!["true".into()], ..Process::default() };
        // That a branch may be.
        let root = Root { path: "rootfs".into(), readonly: false };
        let spec = Spec { process: Some(process), root: Some(root), vfs: Some(vfs), ..Spec::default() };

        let json = serde_json::to_value(&spec).expect("a spec is printable");

        prop_assert!(schema.is_valid(&json), "{}", json);
    }

    #[test]
    fn any_text_is_parsed_or_refused_on_one_line(bytes in vec(any::<u8>(), 0..200)) {
        let text = String::from_utf8_lossy(&bytes);
        if let Err(error) = Spec::parse(&text, Path::new("spec.json")) {
            prop_assert!(!error.to_string().contains('\n'));
        }
    }

    #[test]
    fn any_json_near_to_a_spec_is_parsed_or_refused_on_one_line(text in near_spec()) {
        match Spec::parse(&text, Path::new("spec.json")) {
            Ok(spec) => prop_assert!(serde_json::to_string(&spec).is_ok()),
            Err(error) => prop_assert!(!error.to_string().contains('\n')),
        }
    }
}
