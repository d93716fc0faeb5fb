//! The header, the connection, phases, durations.

use super::Lang;
use crate::protocol::PhaseName;

words! {
    no_name: "run", "运行";
    opening: "opening", "正在打开";
    runner_gone: "runner gone", "运行进程已消失";
    until_step_ended: "until the step has ended", "等待当前步结束";
    connecting: "connecting", "正在连接";
    live: "live", "在线";
    live_readonly: "live, read-only", "在线，只读";
    reconnecting: "reconnecting", "正在重连";
    no_runner: "no runner", "无运行进程";
    only_data: "data only", "仅数据";
    reading_data: "reading the data", "正在读取数据";
    run_not_begun: "no run has begun", "运行尚未开始";

    queue_then_stops: "then it stops", "之后停止";

    loading: "loading", "正在加载";
    training: "training", "训练中";
    pausing: "pausing", "正在暂停";
    paused: "paused", "已暂停";
    evaluating: "evaluating", "评估中";
    sampling: "sampling", "采样中";
    saving: "saving", "保存中";
    done: "done", "已完成";
    failed: "failed", "已失败";
    stopped: "stopped", "已停止";

    loss: "loss", "损失";
    eval: "eval", "评估";
    tokens_per_second: "tok/s", "词元/秒";
    images_per_second: "img/s", "图/秒";
    rate_short: "lr", "学习率";
    norm_short: "norm", "范数";
    ms_per_step: "ms/step", "毫秒/步";
    s_per_step: "s/step", "秒/步";
    peak: "peak", "峰值";
    seen: "seen", "已见";
}

sentences! {
    queue_place(place, of): "queue {place}/{of}", "队列 {place}/{of}";
    queue_then(run): "then {run}", "下一个 {run}";
    while_phase(phase): "while {phase}", "（{phase}时）";
    for_so_long(age): "for {age}", "已 {age}";
    updates_dropped(n): "{n} updates dropped", "丢弃了 {n} 次更新";
    data_old(age): "data {age} old", "数据为 {age}前";
    reconnecting_age(age): "reconnecting, data {age} old", "正在重连，数据为 {age}前";
    replay_at(speed): "replay {speed}", "回放 {speed}";
    ended_ago(age): "ended {age} ago", "{age}前结束";
    ago(age): "{age} ago", "{age}前";
    step_at(step): "step {step}", "第 {step} 步";
    step_of(step, total): "step {step} / {total}", "第 {step} / {total} 步";
    epoch_at(epoch): "epoch {epoch}", "轮次 {epoch}";
    time_left(time): "{time} left", "剩余 {time}";
    took(time): "took {time}", "用时 {time}";
    rank_trained(rank, parameters, share): "rank {rank}, {parameters} trained ({share} %)", "秩 {rank}，训练 {parameters} 参数（{share} %）";
    base_loss(loss): "base {loss}", "基座 {loss}";
    remedy_key(key): "{key} tries it", "按 {key} 采用";
    more_alerts(n): "+{n} more in the log", "日志中另有 {n} 条";
    steps_skipped(n): "{n} skipped", "跳过 {n} 步";
    too_small(columns, rows, width, height): "The deck needs {columns} x {rows} characters and has {width} x {height}: please enlarge the window. q leaves; the run goes on.", "界面需要 {columns} x {rows} 个字符，现有 {width} x {height}：请放大窗口。按 q 离开；运行继续。";

    seconds(s): "{s} s", "{s} 秒";
    minutes(min): "{min} min", "{min} 分钟";
    minutes_seconds(min, s): "{min} min {s} s", "{min} 分 {s} 秒";
    hours(h): "{h} h", "{h} 小时";
    hours_minutes(h, min): "{h} h {min} min", "{h} 小时 {min} 分";
    days(d): "{d} d", "{d} 天";
    days_hours(d, h): "{d} d {h} h", "{d} 天 {h} 小时";
}

impl Lang {
    pub fn phase(self, phase: PhaseName) -> &'static str {
        match phase {
            PhaseName::Loading => self.loading(),
            PhaseName::Training => self.training(),
            PhaseName::Pausing => self.pausing(),
            PhaseName::Paused => self.paused(),
            PhaseName::Evaluating => self.evaluating(),
            PhaseName::Sampling => self.sampling(),
            PhaseName::Saving => self.saving(),
            PhaseName::Done => self.done(),
            PhaseName::Failed => self.failed(),
            PhaseName::Stopped => self.stopped(),
        }
    }

    /// Two units at most: `12 s`, `3 min 20 s`, `2 h 05 min`, `3 d 4 h`.
    pub fn duration(self, seconds: f64) -> String {
        if !seconds.is_finite() {
            return "?".into();
        }
        let s = seconds.max(0.0).round() as u64;
        let two = |n: u64| format!("{n:02}");
        match s {
            0..60 => self.seconds(s),
            60..3600 => self.minutes_seconds(s / 60, two(s % 60)),
            3600..86_400 => self.hours_minutes(s / 3600, two(s / 60 % 60)),
            _ => self.days_hours(s / 86_400, s / 3600 % 24),
        }
    }

    /// Time left, no finer than it is known: `40 s`, `3 min 20 s`, `12 min`, `2 h 05 min`.
    pub fn eta(self, seconds: f64) -> String {
        match seconds {
            s if !s.is_finite() => "?".into(),
            s if s < 20.0 => self.duration(s),
            s if s < 60.0 => self.duration((s / 5.0).round() * 5.0),
            s if s < 600.0 => self.duration((s / 10.0).round() * 10.0),
            s if s < 3570.0 => self.minutes((s / 60.0).round()),
            s => self.duration((s / 60.0).round() * 60.0),
        }
    }

    /// One unit, and below a minute in steps of five seconds, so that a clock on the screen costs
    /// few bytes: `5 s`, `3 min`, `2 h`.
    pub fn age(self, seconds: f64) -> String {
        if !seconds.is_finite() {
            return "?".into();
        }
        let s = seconds.max(0.0) as u64;
        match s {
            0..60 => self.seconds(s / 5 * 5),
            60..3600 => self.minutes(s / 60),
            3600..86_400 => self.hours(s / 3600),
            _ => self.days(s / 86_400),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_as_fine_as_they_are_known() {
        let lang = Lang::English;
        assert_eq!(lang.duration(200.0), "3 min 20 s");
        assert_eq!(lang.duration(7500.0), "2 h 05 min");
        assert_eq!(lang.duration(f64::INFINITY), "?");
        assert_eq!(lang.eta(203.0), "3 min 20 s");
        assert_eq!(lang.eta(1234.0), "21 min");
        assert_eq!(lang.age(44.0), "40 s");
        assert_eq!(Lang::Chinese.duration(200.0), "3 分 20 秒");
    }
}
