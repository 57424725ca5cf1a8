/* A clock that is wrong: preloaded (ld.so(8)), it sets the wall clock of a program ahead by the seconds
 * in CLOCK_AHEAD, or back by a negative number. Time namespaces do not move this clock. */

#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now)
{
	int result = syscall(SYS_clock_gettime, clock, now);
	const char *ahead = getenv("CLOCK_AHEAD");

	if (result == 0 && ahead && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		now->tv_sec += atol(ahead);
	return result;
}
