/*
 * What a command needs before it does anything: three open descriptors, and
 * signals as a pipeline expects them.
 *
 * SIGPIPE kills, also when our parent ignored it: the reader is gone, and
 * nobody wants the rest.  INT, TERM and HUP kill at once, too, as long as
 * nothing is there that would be left behind.  While an output is being
 * written (cmd_guard) they set a flag, so that it can be taken back and a .pq
 * stream can say why it ends; at the end we die of the same signal, so that
 * the parent sees the true cause.
 */
#include "cmd.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

volatile int cmd_cancel;
static volatile sig_atomic_t guarded;

/* Also from the handler: all of this may be called there. */
static void die_of(int sig)
{
    sigset_t one;

    signal(sig, SIG_DFL);
    sigemptyset(&one);
    sigaddset(&one, sig);
    raise(sig);
    sigprocmask(SIG_UNBLOCK, &one, NULL);
}

static void on_signal(int sig)
{
    cmd_cancel = sig;
    if (guarded)
        return;
    cmd_progress_end();
    die_of(sig);
}

void cmd_guard(bool on)
{
    guarded = on;
}

/*
 * Descriptors 0 to 2 that are closed are opened in the wrong direction: using
 * them fails, and no file of ours becomes standard output by accident.
 */
static void open_standard_fds(void)
{
    for (int fd = 0; fd <= 2; fd++) {
        if (fcntl(fd, F_GETFD) >= 0)
            continue;
        if (open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) != fd)
            _exit(CMD_TROUBLE);
    }
}

static void die_of_sigpipe(void)
{
    sigset_t pipe_only;

    signal(SIGPIPE, SIG_DFL);
    sigemptyset(&pipe_only);
    sigaddset(&pipe_only, SIGPIPE);
    sigprocmask(SIG_UNBLOCK, &pipe_only, NULL);
}

/* No SA_RESTART: a read from a pipe that waits must end. */
static void catch_unless_ignored(int sig)
{
    struct sigaction a;

    if (sigaction(sig, NULL, &a) != 0 || a.sa_handler == SIG_IGN)
        return;
    a = (struct sigaction){.sa_handler = on_signal};
    sigemptyset(&a.sa_mask);
    sigaction(sig, &a, NULL);
}

void cmd_signals_init(void)
{
    open_standard_fds();
    die_of_sigpipe();
    catch_unless_ignored(SIGINT);
    catch_unless_ignored(SIGTERM);
    catch_unless_ignored(SIGHUP);
}

void cmd_signals_exit(void)
{
    if (cmd_cancel != 0)
        die_of(cmd_cancel);
}
