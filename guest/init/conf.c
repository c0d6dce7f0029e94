// SPDX-License-Identifier: Apache-2.0
#include "conf.h"

#include <linux/resource.h>

struct conf conf;

static const char *const limit_names[LIMITS] = {
	[RLIMIT_CPU] = "cpu",		[RLIMIT_FSIZE] = "fsize",
	[RLIMIT_DATA] = "data",		[RLIMIT_STACK] = "stack",
	[RLIMIT_CORE] = "core",		[RLIMIT_RSS] = "rss",
	[RLIMIT_NPROC] = "nproc",	[RLIMIT_NOFILE] = "nofile",
	[RLIMIT_MEMLOCK] = "memlock",	[RLIMIT_AS] = "as",
	[RLIMIT_LOCKS] = "locks",	[RLIMIT_SIGPENDING] = "sigpending",
	[RLIMIT_MSGQUEUE] = "msgqueue", [RLIMIT_NICE] = "nice",
	[RLIMIT_RTPRIO] = "rtprio",	[RLIMIT_RTTIME] = "rttime",
};

static char *copy(const char *s)
{
	size_t size = strlen(s) + 1;
	char *to = take(size);

	return to ? memcpy(to, s, size) : NULL;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

/*
 * \\, \n, \t, \xHH (lower case), and \e for nothing at all, which makes an empty word of a job
 * visible; in place.
 */
static bool unescape(char *s)
{
	char *to = s;

	while (*s) {
		int high, low;

		if (*s != '\\') {
			*to++ = *s++;
			continue;
		}
		switch (s[1]) {
		case '\\':
			*to++ = '\\';
			break;
		case 'n':
			*to++ = '\n';
			break;
		case 't':
			*to++ = '\t';
			break;
		case 'e':
			break;
		case 'x':
			high = hex_digit(s[2]);
			low = high < 0 ? -1 : hex_digit(s[3]);
			if (low < 0 || !(high | low))
				return false;
			*to++ = (char)(high << 4 | low);
			s += 2;
			break;
		default:
			return false;
		}
		s += 2;
	}
	*to = '\0';
	return true;
}

/* Cuts @s at its first @c and returns what is behind it, or NULL if there is none. */
static char *cut(char *s, char c)
{
	for (; *s; s++) {
		if (*s == c) {
			*s = '\0';
			return s + 1;
		}
	}
	return NULL;
}

static bool append(struct words *words, char *word)
{
	if (words->n == MAX_WORDS || !word)
		return false;
	words->v[words->n++] = word;
	words->v[words->n] = NULL;
	return true;
}

static bool id(const char *s, uint32_t *out)
{
	uint64_t value;

	/* 2^32 - 1 is "no change" to setuid and must not get there. */
	if (!number(s, UINT32_MAX - 1, &value))
		return false;
	*out = (uint32_t)value;
	return true;
}

static bool seconds(const char *s, int64_t *out)
{
	uint64_t value;

	if (!number(s, 1000000, &value))
		return false;
	*out = (int64_t)value * 1000;
	return true;
}

static bool limit_value(const char *s, uint64_t *out)
{
	if (equal(s, "unlimited")) {
		*out = UINT64_MAX; /* RLIM64_INFINITY */
		return true;
	}
	return number(s, UINT64_MAX - 1, out);
}

static bool set_limit(char *name)
{
	char *soft = cut(name, ':');
	char *hard = soft ? cut(soft, ':') : NULL;

	if (!hard)
		return false;
	for (int i = 0; i < LIMITS; i++) {
		struct limit *limit = &conf.limits[i];

		if (!equal(limit_names[i], name))
			continue;
		limit->set = limit_value(soft, &limit->soft) && limit_value(hard, &limit->hard);
		return limit->set && limit->soft <= limit->hard;
	}
	return false;
}

static bool set_ip(char *value)
{
	char *router = cut(value, ',');

	conf.ip.router = 0;
	if (equal(value, "dhcp") || equal(value, "none")) {
		conf.ip.how = equal(value, "dhcp") ? IP_DHCP : IP_NONE;
		return !router;
	}
	conf.ip.how = IP_STATIC;
	return address(value, &conf.ip.addr, &conf.ip.prefix) &&
	       (!router || address(router, &conf.ip.router, NULL));
}

static bool set_option(struct job *job, char *option)
{
	char *value = cut(option, '=');

	if (equal(option, "any"))
		return job->any = !value;
	if (!value)
		return false;
	if (equal(option, "uid"))
		return id(value, &job->uid);
	if (equal(option, "gid"))
		return id(value, &job->gid);
	if (equal(option, "timeout"))
		return seconds(value, &job->timeout);
	if (equal(option, "name")) {
		job->name = value;
		return unescape(value);
	}
	return false;
}

/* MODE[,OPTION...] PATH [ARGUMENT...] */
static bool add_job(char *mode)
{
	static const char *const modes[] = {
		[BEFORE] = "before", [BESIDE] = "beside", [AFTER] = "after"
	};
	char *word = cut(mode, ' ');
	char *option = cut(mode, ',');
	struct job *job;
	char name[16];
	size_t n = 1;

	if (conf.n_jobs == MAX_JOBS || !word)
		return false;
	job = &conf.jobs[conf.n_jobs];
	*job = (struct job){ 0 }; /* "clear=job" may have left something here */
	while (job->mode <= AFTER && !equal(modes[job->mode], mode))
		job->mode++;
	if (job->mode > AFTER)
		return false;
	while (option) {
		char *next = cut(option, ',');

		if (!set_option(job, option))
			return false;
		option = next;
	}
	for (char *s = word; *s; s++)
		n += *s == ' ';
	job->argv = take((n + 1) * sizeof(char *));
	if (!job->argv)
		return false;
	for (n = 0; word; n++) {
		char *next = cut(word, ' ');

		/* Two blanks in a row are a mistake: an empty word is written \e. */
		if (!*word || !unescape(word))
			return false;
		job->argv[n] = word;
		word = next;
	}
	job->argv[n] = NULL;
	if (!job->name) {
		format(name, sizeof(name), "job%u", (uint32_t)conf.n_jobs);
		job->name = copy(name);
	}
	conf.n_jobs++;
	return job->name && job->argv[0][0];
}

static bool clear(const char *list)
{
	if (equal(list, "arg"))
		conf.arg.n = 0;
	else if (equal(list, "env"))
		conf.env.n = 0;
	else if (equal(list, "job"))
		conf.n_jobs = 0;
	else if (equal(list, "dns"))
		conf.n_dns = 0;
	else if (equal(list, "mount"))
		conf.n_mount = 0;
	else
		return false;
	return true;
}

/* A later assignment of the same name wins. */
static bool add_env(char *value)
{
	const char *name = value;
	size_t length;

	while (*name && *name != '=')
		name++;
	length = (size_t)(name - value);
	if (!*name || !length)
		return false;
	for (size_t i = 0; i < conf.env.n; i++) {
		/* Ours stops at the first difference, so never behind the end of the shorter one. */
		if (!memcmp(conf.env.v[i], value, length + 1)) {
			conf.env.v[i] = value;
			return true;
		}
	}
	return append(&conf.env, value);
}

static bool add_string(char **list, size_t *n, char *value)
{
	if (*n == MAX_LIST)
		return false;
	list[(*n)++] = value;
	return true;
}

static bool set(const char *key, char *value)
{
	if (equal(key, "job")) /* split before it is unescaped */
		return add_job(value);
	if (!unescape(value))
		return false;
	if (equal(key, "hostname"))
		return (conf.hostname = value);
	if (equal(key, "app"))
		return (conf.app = value);
	if (equal(key, "cwd"))
		return (conf.cwd = value);
	if (equal(key, "interface"))
		return (conf.interface = value);
	if (equal(key, "status"))
		return (conf.status = value);
	if (equal(key, "end")) {
		conf.end_by_reset = equal(value, "reset");
		return conf.end_by_reset || equal(value, "off");
	}
	if (equal(key, "arg"))
		return append(&conf.arg, value);
	if (equal(key, "env"))
		return add_env(value);
	if (equal(key, "uid"))
		return id(value, &conf.uid);
	if (equal(key, "gid"))
		return id(value, &conf.gid);
	if (equal(key, "group"))
		return conf.n_groups < MAX_LIST && id(value, &conf.groups[conf.n_groups++]);
	if (equal(key, "rlimit"))
		return set_limit(value);
	if (equal(key, "module"))
		return add_string(conf.module, &conf.n_module, value);
	if (equal(key, "sysctl"))
		return add_string(conf.sysctl, &conf.n_sysctl, value);
	if (equal(key, "mount"))
		return add_string(conf.mount, &conf.n_mount, value);
	if (equal(key, "ip"))
		return set_ip(value);
	if (equal(key, "lease"))
		return address(value, &conf.lease.addr, &conf.lease.prefix);
	if (equal(key, "dns"))
		return conf.n_dns < MAX_DNS && address(value, &conf.dns[conf.n_dns++], NULL);
	if (equal(key, "dhcp-wait"))
		return seconds(value, &conf.dhcp_wait);
	if (equal(key, "stop-wait"))
		return seconds(value, &conf.stop_wait);
	if (equal(key, "entropy-wait"))
		return seconds(value, &conf.entropy_wait);
	if (equal(key, "watchdog"))
		return seconds(value, &conf.watchdog);
	if (equal(key, "clear"))
		return clear(value);
	return false;
}

/* KEY=VALUE; @where goes into the message about a mistake, and as much of the line as fits. */
static bool assign(char *line, const char *where, char *wrong, size_t size)
{
	char shown[256]; /* parsing cuts the line to pieces */
	char *value;

	format(shown, sizeof(shown), "%s", line);
	value = cut(line, '=');
	if (value && set(line, value))
		return true;
	format(wrong, size, "%s: cannot use '%s'", where, shown);
	return false;
}

static bool read_lines(const char *path, char *wrong, size_t size)
{
	static const size_t max = 512 * 1024;
	char where[64], *text, *next;
	uint32_t number = 0;
	long length;

	text = take(max + 1);
	length = text ? read_file(path, text, max + 1) : -ENOMEM;
	if (length == -ENOENT)
		return true;
	if (length < 0 || (size_t)length > max) {
		format(wrong, size, "%s: cannot read it (errno %d)", path, length < 0 ? (int)-length : EFBIG);
		return false;
	}
	text[length] = '\0';
	for (; text; text = next) {
		number++;
		next = cut(text, '\n');
		if (!*text || *text == '#')
			continue;
		format(where, sizeof(where), "%s line %u", path, number);
		if (!assign(text, where, wrong, size))
			return false;
	}
	return true;
}

/*
 * ukl.KEY=VALUE words of the kernel's command line; a value with blanks in it stands in double
 * quotes, ukl.env="A=b c", as the kernel's own parameters do.  Nothing behind "--" is looked at.
 */
static bool read_command_line(char *wrong, size_t size)
{
	static char line[4096];
	long length = read_file(COMMAND_LINE, line, sizeof(line) - 1);
	char *at = line;

	if (length < 0) {
		say("cannot read " COMMAND_LINE " (errno %d)", (int)-length);
		return true;
	}
	line[length] = '\0';
	while (*at) {
		char *word, *to;
		bool quoted = false;

		while (*at == ' ' || *at == '\n')
			at++;
		for (word = to = at; *at && *at != '\n' && (quoted || *at != ' '); at++) {
			if (*at == '"')
				quoted = !quoted;
			else
				*to++ = *at;
		}
		if (*at)
			at++;
		*to = '\0';
		if (equal(word, "--"))
			break;
		if (after(word, "ukl.") && !assign(word + 4, "kernel command line", wrong, size))
			return false;
	}
	return true;
}

bool conf_read(char *wrong, size_t size)
{
	/* Not an initializer: it would put the whole, mostly empty, structure into the file. */
	conf.app = "/UKL";
	conf.cwd = "/";
	conf.ip.how = IP_DHCP;
	conf.dhcp_wait = conf.stop_wait = conf.entropy_wait = 10000;
	return read_lines(CONF_FILE, wrong, size) && read_lines(RUN_FILE, wrong, size) &&
	       read_command_line(wrong, size);
}
