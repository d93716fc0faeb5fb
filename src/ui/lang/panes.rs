//! The panes: their titles and what they say.

use super::Lang;
use crate::protocol::CheckpointReason;

words! {
    pane_loss: "loss", "损失";
    pane_rate: "rate and norm", "学习率与范数";
    pane_rate_short: "rate", "学习率";
    pane_gpu: "GPU", "GPU";
    pane_host: "host", "主机";
    pane_config: "config", "配置";
    pane_data: "data", "数据";
    pane_samples: "samples", "样例";
    pane_checkpoints: "checkpoints", "检查点";
    pane_checkpoints_short: "saves", "存档";
    pane_log: "log", "日志";

    no_step: "no step yet", "尚未开始训练";
    no_finite_loss: "no finite loss yet", "尚无有限的损失值";
    raw: "raw", "原始";
    average: "average", "平均";
    held_out: "held-out", "留出";
    checkpoint: "checkpoint", "检查点";
    logarithmic: "log", "对数";
    skipped: "skipped", "已跳过";
    learning_rate: "learning rate", "学习率";
    gradient_norm: "gradient norm", "梯度范数";
    gradient_norm_log: "gradient norm, log", "梯度范数（对数）";

    by_step: "by step", "按步";
    by_tokens: "by tokens", "按词元";
    by_time: "by time", "按时间";

    no_reading: "no reading yet", "尚无读数";
    no_gpu: "no GPU", "没有 GPU";
    gpu_lost: "GPU lost", "GPU 已丢失";
    no_device_listed: "the NVIDIA driver is there and lists no device", "NVIDIA 驱动存在，但没有列出设备";
    trains_on: "trains on", "训练设备";
    memory: "memory", "显存";
    run_share: "run", "本运行";
    others: "others", "其他";
    owner_unknown: "the driver does not tell whose it is", "驱动未说明属于谁";
    busy: "busy", "占用";
    heat: "heat", "温度";
    clock: "clock", "频率";
    held_by: "held by", "受限于";
    history: "history", "历史";

    cpu: "CPU", "CPU";
    ram: "RAM", "内存";
    disk: "disk", "磁盘";

    no_config: "no config yet", "尚无配置";
    nothing_matches: "nothing matches the filter", "没有符合筛选的内容";
    applies_live: "live", "实时";
    applies_checkpoint: "ckpt", "检查点";
    applies_restart: "restart", "重启";

    source_default: "default", "默认";
    source_base: "from the base", "取自基座";

    not_read: "not read yet", "尚未读取";
    records: "records", "记录";
    format: "format", "格式";
    tokens: "tokens", "词元";
    length: "length", "长度";
    odd: "odd", "异常";
    packed: "packed", "打包";
    record_cut: "cut", "已截断";

    no_samples: "none yet; s samples now", "暂无；按 s 立即采样";
    bare_base: "bare base", "原始基座";
    not_sampled_then: "not sampled then", "当时未采样";
    no_picture: "the picture was not written", "图片未写入";
    base: "base", "基座";
    adapter: "adapter", "适配器";
    with_adapter: "with adapter", "带适配器";

    no_saves: "none yet; c saves one now", "暂无；按 c 立即保存";
    reason_scheduled: "scheduled", "按计划";
    reason_time: "5 minutes", "每 5 分钟";
    reason_asked: "asked for", "应要求";
    reason_signal: "signal", "信号";
    reason_stop: "stop", "停止";
    reason_end: "end", "结束";

    no_log: "nothing yet", "暂无";
    warning: "warning", "警告";
    error: "error", "错误";
}

sentences! {
    average_over(steps): "over {steps} steps", "跨 {steps} 步";
    window_fixed(times): "{times} fixed", "{times} 固定";
    bare_base_loss(loss): "bare base {loss}", "原始基座 {loss}";
    clock_memory(core, memory): "{core} MHz, memory {memory} MHz", "{core} MHz，显存 {memory} MHz";
    percent_of_cores(percent, cores): "{percent} % of {cores}", "{percent} % / {cores} 核";
    cores(n): "{n} cores", "{n} 核";
    bytes_left(bytes): "{bytes} left", "剩余 {bytes}";
    source_line(n): "line {n}", "第 {n} 行";
    train_records(n): "{n} train", "训练 {n}";
    train_and_held_out(train, eval): "{train} train, {eval} held out", "训练 {train}，留出 {eval}";
    tokens_trained(tokens, share): "{tokens}, {share} % trained on", "{tokens}，{share} % 参与训练";
    lengths(min, max, median): "{min} to {max}, median {median}", "{min} 至 {max}，中位数 {median}";
    records_cut(n): "{n} cut", "截断 {n}";
    rows_filled(rows, share): "{rows} rows, {share} % full", "{rows} 行，填充 {share} %";
    records_duplicate(n): "{n} duplicate", "重复 {n}";
    records_skipped(n): "{n} skipped", "跳过 {n}";
    fetching_record(n): "fetching record {n}", "正在获取第 {n} 条记录";
    tokens_trained_on(trained, tokens): "{trained}/{tokens} tokens trained on", "{trained}/{tokens} 词元参与训练";
    record_place(left, at, total, right): "record {left} {at}/{total} {right}", "记录 {left} {at}/{total} {right}";
    export_at(step): "export, step {step}", "导出，第 {step} 步";
    steps_not_saved(n): "{n} steps not saved", "{n} 步未保存";
    seed(seed): "seed {seed}", "种子 {seed}";
    rows_below(arrow, n): "{arrow} {n} more", "{arrow} 下方还有 {n} 行";
    newer_lines(arrow, n): "{arrow} {n} newer", "{arrow} 另有 {n} 行更新";
}

impl Lang {
    /// Where a value of the config comes from, as the runner says it: "line 3", "default", ...
    pub fn config_source(self, source: &str) -> String {
        match (source, source.strip_prefix("line ")) {
            (_, Some(line)) => self.source_line(line),
            ("default", _) => self.source_default().to_owned(),
            ("from the base", _) => self.source_base().to_owned(),
            _ => source.to_owned(),
        }
    }

    pub fn checkpoint_reason(self, reason: CheckpointReason) -> &'static str {
        match reason {
            CheckpointReason::Scheduled => self.reason_scheduled(),
            CheckpointReason::Time => self.reason_time(),
            CheckpointReason::Asked => self.reason_asked(),
            CheckpointReason::Signal => self.reason_signal(),
            CheckpointReason::Stop => self.reason_stop(),
            CheckpointReason::End => self.reason_end(),
        }
    }
}
