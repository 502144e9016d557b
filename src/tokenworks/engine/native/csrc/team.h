// The threads of one step. Every thread runs the same code; shared loops and barriers are the only places they meet.
#pragma once

#include <omp.h>

#include <algorithm>
#include <atomic>

namespace tokenworks {

struct Counters {
    alignas(64) std::atomic<long> next[2]{};
};

class Team {
public:
    Team(Counters& counters, int index, int size) : index(index), size(size), counters_(counters) {}

    const int index, size;

    void barrier() {
#pragma omp barrier
    }

    // Calls work(i) for i in [0, count), each once, on whichever thread is free; all calls are done when it returns.
    // A thread that the system takes off its core for a while thus holds up one piece of work, not its whole share.
    template <class Work>
    void share(long count, Work&& work) {
        std::atomic<long>& next = counters_.next[phase_ & 1];
        if (index == 0) counters_.next[++phase_ & 1].store(0, std::memory_order_relaxed);  // nobody reads it any more
        else ++phase_;
        for (long i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) work(i);
        barrier();
    }

    // The same for pieces of equal and small cost, each thread taking one run of them: work(begin, end).
    template <class Work>
    void split(long count, Work&& work) {
        const long begin = count * index / size, end = count * (index + 1) / size;
        if (begin < end) work(begin, end);
        barrier();
    }

private:
    Counters& counters_;
    long phase_ = 0;
};

// Runs body(team) on `num_threads` threads of OpenMP's pool, the one that PyTorch's operators use as well.
template <class Body>
void run_team(int num_threads, Body&& body) {
    Counters counters;
#pragma omp parallel num_threads(num_threads)
    {
        Team team(counters, omp_get_thread_num(), omp_get_num_threads());
        body(team);
    }
}

}  // namespace tokenworks
