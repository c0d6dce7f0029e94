// SPDX-License-Identifier: Apache-2.0
/* Contexts that a program switches itself, on stacks of any kind. */
#include "posix.h"
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <ucontext.h>

#define STACK (64 * 1024)

static char static_stacks[3][STACK] __attribute__((aligned(16)));
static ucontext_t main_context, contexts[3];
static volatile int trace[64], traced;
static volatile long sum;

static void step(int n)
{
	if (traced < 64)
		trace[traced++] = n;
}

static void ping(int me, int other, int rounds)
{
	char here;

	sum += &here >= static_stacks[me] && &here < static_stacks[me] + STACK;
	for (int i = 0; i < rounds; i++) {
		step(me);
		if (swapcontext(&contexts[me], &contexts[other]))
			abort();
	}
}

static void make(ucontext_t *context, void *stack, ucontext_t *next, void (*body)(void), int argc, long a, long b, long c)
{
	NEED(getcontext(context) == 0);
	context->uc_stack.ss_sp = stack;
	context->uc_stack.ss_size = STACK;
	context->uc_link = next;
	makecontext(context, body, argc, a, b, c);
}

static void add_eight(int a, int b, int c, int d, int e, int f, int g, int h)
{
	/* The stack is aligned as calls want it, or vector code faults. */
	uintptr_t sp = (uintptr_t)__builtin_frame_address(0);
	double d_aligned[2] = { 1.5, a };

	sum = a + b * 10 + c * 100 + d * 1000 + e * 10000 + f * 100000 + g * 1000000 + h * 10000000 + (sp % 16) * 1000000000;
	if (d_aligned[0] * d_aligned[1] != 1.5)
		sum = -1;
}

static void print_floats(void)
{
	char text[100];

	snprintf(text, sizeof(text), "%.10f %Lf", M_PI, 1.25L);
	sum = !strcmp(text, "3.1415926536 1.250000") && getppid() > 0;
	free(malloc(100000));
}

static void forever(int me)
{
	for (;;) {
		sum++;
		swapcontext(&contexts[me], &main_context);
	}
}

static void test_switches(void)
{
	char *mapped = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *allocated = malloc(STACK);
	void *const stacks[3] = { static_stacks[0], mapped, allocated };
	static const char *const names[3] = { "static", "mapped", "malloc" };
	volatile int came = 0;
	ucontext_t here;
	char name[60];
	int good = 1;

	make(&contexts[0], static_stacks[0], &main_context, (void (*)(void))ping, 3, 0, 1, 3);
	make(&contexts[1], static_stacks[1], &main_context, (void (*)(void))ping, 3, 1, 0, 3);
	swapcontext(&main_context, &contexts[0]);
	for (int i = 0; i < 6; i++)
		good &= trace[i] == i % 2;
	CHECK("contexts.swap.order", good && traced == 6);
	EQUAL("contexts.swap.static_stacks", sum, 2);

	getcontext(&contexts[2]);
	contexts[2].uc_stack.ss_sp = static_stacks[2];
	contexts[2].uc_stack.ss_size = STACK;
	contexts[2].uc_link = &main_context;
	makecontext(&contexts[2], (void (*)(void))add_eight, 8, 1, 2, 3, 4, 5, 6, 7, 8);
	swapcontext(&main_context, &contexts[2]);
	EQUAL("contexts.make.arguments_and_alignment", sum, 87654321);

	for (int i = 0; i < 3; i++) {
		sum = 0;
		make(&contexts[0], stacks[i], &main_context, print_floats, 0, 0, 0, 0);
		swapcontext(&main_context, &contexts[0]);
		snprintf(name, sizeof(name), "contexts.stack.%s.library", names[i]);
		EQUAL(name, sum, 1);
		sum = 0;
		make(&contexts[0], stacks[i], NULL, (void (*)(void))forever, 1, 0, 0, 0);
		for (int n = 0; n < 3000; n++)
			swapcontext(&main_context, &contexts[0]);
		snprintf(name, sizeof(name), "contexts.stack.%s.thousands", names[i]);
		EQUAL(name, sum, 3000);
	}
	getcontext(&here);
	if (came++ < 5)
		setcontext(&here);
	EQUAL("contexts.set.again", came, 6);
	munmap(mapped, STACK);
	free(allocated);
}

/* --- what a context has of its own --- */

static void check_mask(void)
{
	sigset_t set;

	sigprocmask(SIG_BLOCK, NULL, &set);
	sum = sigismember(&set, SIGUSR1) && !sigismember(&set, SIGUSR2);
}

static __thread int own = 3;

static void check_tls(void)
{
	sum = own++;
	errno = 77;
}

static volatile int handled;

static void on_signal(int sig, siginfo_t *info, void *context)
{
	char here;

	(void)info;
	(void)context;
	handled += sig == SIGUSR1 && &here >= static_stacks[0] && &here < static_stacks[0] + STACK;
}

static void raise_on_stack(void)
{
	for (int i = 0; i < 100; i++)
		raise(SIGUSR1);
	kill(getpid(), SIGUSR1);
}

static void *switch_in_thread(void *arg)
{
	static __thread ucontext_t mine, theirs;
	static __thread volatile int count;
	char *stack = malloc(STACK);

	(void)arg;
	NEED(getcontext(&theirs) == 0);
	theirs.uc_stack.ss_sp = stack;
	theirs.uc_stack.ss_size = STACK;
	theirs.uc_link = &mine;
	makecontext(&theirs, check_tls, 0);
	own = 1000;
	swapcontext(&mine, &theirs);
	count = own;
	free(stack);
	return count == 1001 ? NULL : (void *)1;
}

static void leave_handler(int sig)
{
	sum += sig;
	setcontext(&main_context);
}

/* Switches from a timer's handler: the way some programs make threads. */
static ucontext_t tasks[2];
static volatile int running;
static volatile unsigned long progress[2], switches;

static void preempt(int sig)
{
	int old = running;

	(void)sig;
	switches++;
	if (switches >= 30 && progress[0] && progress[1])
		setcontext(&main_context);
	running = !old;
	swapcontext(&tasks[old], &tasks[running]);
}

static void set_alarm_mask(int how)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGALRM);
	sigprocmask(how, &set, NULL);
}

static void task(int me)
{
	/* Only here: between its mask and its stack, the next switch would come on the other's. */
	set_alarm_mask(SIG_UNBLOCK);
	for (;;)
		progress[me]++;
}

static void test_state(void)
{
	struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO };
	struct itimerspec timer = { .it_interval.tv_nsec = 5000000, .it_value.tv_nsec = 5000000 };
	volatile int left = 0;
	pthread_t threads[4];
	sigset_t set, old, after;
	void *ret;
	int bad = 0;
	timer_t id;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, &old);
	make(&contexts[0], static_stacks[0], &main_context, check_mask, 0, 0, 0, 0);
	sigprocmask(SIG_SETMASK, &old, NULL);
	swapcontext(&main_context, &contexts[0]);
	sigprocmask(SIG_BLOCK, NULL, &after);
	CHECK("contexts.mask.there", sum == 1);
	CHECK("contexts.mask.back", !sigismember(&after, SIGUSR1));

	make(&contexts[0], static_stacks[0], &main_context, check_tls, 0, 0, 0, 0);
	swapcontext(&main_context, &contexts[0]);
	CHECK("contexts.thread_local", sum == 3 && own == 4 && errno == 77);
	for (int i = 0; i < 4; i++)
		NEED(pthread_create(&threads[i], NULL, switch_in_thread, NULL) == 0);
	for (int i = 0; i < 4; i++) {
		pthread_join(threads[i], &ret);
		bad += ret != NULL;
	}
	CHECK("contexts.threads", !bad && own == 4);

	sigaction(SIGUSR1, &action, NULL);
	make(&contexts[0], static_stacks[0], &main_context, raise_on_stack, 0, 0, 0, 0);
	swapcontext(&main_context, &contexts[0]);
	EQUAL("contexts.signals_on_static_stack", handled, 101);

	sum = 0;
	signal(SIGUSR2, leave_handler);
	getcontext(&main_context);
	while (left < 200) {
		left++;
		raise(SIGUSR2);
		abort();
	}
	sigprocmask(SIG_BLOCK, NULL, &after);
	CHECK("contexts.set.from_handler", sum == 200 * SIGUSR2 && !sigismember(&after, SIGUSR2));

	signal(SIGALRM, preempt);
	set_alarm_mask(SIG_BLOCK);
	make(&tasks[0], static_stacks[0], NULL, (void (*)(void))task, 1, 0, 0, 0);
	make(&tasks[1], static_stacks[1], NULL, (void (*)(void))task, 1, 1, 0, 0);
	NEED(timer_create(CLOCK_MONOTONIC, NULL, &id) == 0);
	switches = 0;
	left = 0;
	getcontext(&main_context);
	if (!left++) {
		timer_settime(id, 0, &timer, NULL);
		setcontext(&tasks[0]);
	}
	timer_delete(id);
	signal(SIGALRM, SIG_IGN);
	set_alarm_mask(SIG_UNBLOCK);
	signal(SIGALRM, SIG_DFL);
	check(switches >= 30 && progress[0] && progress[1], "contexts.preemptive", "%lu switches, %lu and %lu",
	      switches, progress[0], progress[1]);
}

int contexts_suite(void)
{
	test_switches();
	test_state();
	return check_failed;
}
