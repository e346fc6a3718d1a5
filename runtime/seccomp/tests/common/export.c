/* Reads rules in the form that Exporter::export writes and prints libseccomp's program for them. Names that it does not
 * know go to stderr. Exit status 3: it refused a rule. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <seccomp.h>

int main(void)
{
	char word[64];
	unsigned int def, tree;
	if (scanf("%u %u", &def, &tree) != 2)
		return 2;
	scmp_filter_ctx ctx = seccomp_init(def);
	if (!ctx)
		return 2;
	if (tree && seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2))
		return 2;
	while (scanf("%63s", word) == 1) {
		if (!strcmp(word, "arch")) {
			unsigned int token;
			if (scanf("%u", &token) != 1)
				return 2;
			int rc = seccomp_arch_add(ctx, token);
			if (rc && rc != -EEXIST)
				return 2;
		} else if (!strcmp(word, "foreign")) {
			if (seccomp_arch_remove(ctx, SCMP_ARCH_NATIVE))
				return 2;
		} else {
			unsigned int action, count;
			struct scmp_arg_cmp args[6];
			if (scanf("%u %u", &action, &count) != 2 || count > 6)
				return 2;
			for (unsigned int i = 0; i < count; i++) {
				unsigned int arg, op;
				if (scanf("%u %u %" SCNu64 " %" SCNu64, &arg, &op, &args[i].datum_a,
					  &args[i].datum_b) != 4)
					return 2;
				args[i].arg = arg;
				args[i].op = op;
			}
			int nr = seccomp_syscall_resolve_name(word);
			if (nr == __NR_SCMP_ERROR) {
				fprintf(stderr, "%s\n", word);
				continue;
			}
			if (seccomp_rule_add_array(ctx, action, nr, count, args))
				return 3;
		}
	}
	return seccomp_export_bpf(ctx, 1) ? 2 : 0;
}
